// Names and explanations of the knobs, their choices and the common mistakes.

export const KNOBS = {
  learning_rate: ["Learning rate", "Step size; auto measures the longest safe step."],
  l2: ["Lambda", "Weight of the penalty lambda ||W||²; 0 leaves it out. More makes templates smoother."],
  batch_size: ["Batch size", "Rows in a step."],
  epochs: ["Epochs", "Passes over the rows; auto stops early."],
  decay_every: ["Decay every", "Epochs between cuts of the learning rate; 0 is never, auto cuts when the validation loss has stopped falling."],
  decay_factor: ["Decay factor", "Each cut multiplies the learning rate by it."],
  flip: ["Flips", "Mirror each image at random in every epoch."],
  init_std: ["Initial weights", "Their standard deviation; 0 starts at zero."],
  seed: ["Seed", "Draws the order of rows, the flips and the initial weights."],
  loss: ["Loss", "The mean over rows that training lowers."],
  features: ["Features", "What the layer sees of an image. Patches get more right, and have no templates."],
  solver: ["Solver", "sgd takes small steps; converged goes to the optimum."],
};

export const FIRST = ["features", "loss", "learning_rate", "l2", "batch_size", "epochs"]; // others are behind "More knobs"

export const CHOICES = {
  loss: {softmax: "softmax cross-entropy", sigmoid: "a sigmoid per class"},
  features: {none: "pixels"},
  solver: {sgd: "sgd: step by step", converged: "converged: to the optimum"},
};

export const choice = (name, value) => CHOICES[name]?.[value] ?? String(value).replace(/^patches:(\d+)$/, "patches, $1 filters");

export const MISTAKES = {
  "init-0.1": ["Initial weights of 0.1", "Ten times the usual spread: the templates stay noise, and the loss starts high."],
  "no-shuffle": ["No shuffling", "The rows come in the order of the source in every epoch."],
  "raw-pixels": ["Pixels not standardised", "Numbers from 0 to 255 go in as they are: steps become far too long or far too short."],
  "test-on-train": ["Test accuracy on training rows", "The accuracy shown as that of test rows is of rows that the layer has seen: too good."],
};

// Return the settings that differ from the defaults, in a line.
export function inWords(settings, knobs, mistakes = []) {
  const changed = knobs.filter(knob => knob.name in settings && settings[knob.name] !== knob.default);
  const words = changed.map(({name}) => {
    const label = (KNOBS[name]?.[0] ?? name).toLowerCase();
    const value = settings[name];
    return value === true ? label : value === false ? `no ${label}` : `${label} ${choice(name, value)}`;
  });
  return [...words, ...mistakes.map(name => `mistake: ${(MISTAKES[name]?.[0] ?? name).toLowerCase()}`)].join(", ") || "defaults";
}
