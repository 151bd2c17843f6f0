// The engine without a server: it takes the messages of live/messages.py, trains in this worker, and answers.

import {unpack} from "./frames.js";
import {Kernel} from "./worker-kernel.js";
import {modelFile} from "./worker-model.js";
import {countsOf, imagesOf, interval, rowOf, templatesOf} from "./worker-pictures.js";
import {Taught} from "./worker-teaching.js";
import {COLUMNS, Data, Training} from "./worker-training.js";

const DETAILS_SHARE = 0.15, MOST_EXPLAINED = 24;
const [kernel, {message: about, arrays: numbers}] = await Promise.all([
  Kernel.load("kernel.wasm.gz"), fetch("data.bin").then(answer => answer.arrayBuffer()).then(unpack)
]).catch(error => {
  send({type: "error", about: "train", message: `the engine of this page cannot start: ${error.message}`});
  throw error;
});
const {welcome, defaults} = about;
const sets = Object.fromEntries(about.data.map(of => [of.name, new Data(of, numbers[`${of.name} rows`].data, numbers[`${of.name} labels`].data)]));
const taught = new Taught(welcome.limits);
let training = null;
let picture = null; // {id, arrays}, the image that the page asks about
let opened = null; // answers on the test rows
let ready = true; // the page has drawn the last frame
const turns = new MessageChannel(), waiting = [];
turns.port1.onmessage = () => waiting.shift()();

function send(message, arrays = {}) {
  postMessage({message, arrays}, Object.values(arrays).map(({data}) => data.buffer));
}

// Let other messages be handled.
const turn = () => new Promise(resolve => {
  waiting.push(resolve);
  turns.port2.postMessage(null);
});

const finite = row => row.map(x => Number.isFinite(x) ? x : null);

function settingsOf(given) {
  const settings = Object.fromEntries(welcome.knobs.map(({name, default: value}) => [name, value]));
  for (const [name, value] of Object.entries(given ?? {})) {
    const knob = welcome.knobs.find(other => other.name === name);
    if (!knob) throw new RangeError(`train: settings has no knob ${name}`);
    const {choices, auto, zero, whole, least, most} = knob;
    if (choices.length ? choices.includes(value) : auto && value === "auto" || zero && value === 0) settings[name] = value;
    else if (choices.length) throw new RangeError(`train: settings ${name} is not one of ${choices.join(", ")}`);
    else if (!Number.isFinite(value) || whole && !Number.isInteger(value)) throw new RangeError(`train: settings ${name} is not a ${whole ? "whole " : ""}number`);
    else if (value < least || value > most) throw new RangeError(`train: settings ${name} is not from ${least} to ${most}`);
    else settings[name] = value;
  }
  return settings;
}

// The command that does the same; where rows were left out, it says so.
function commandOf({source, complete, sizes, of}, settings) {
  const options = Object.entries({...settings, keep: "last"}).filter(([name, value]) => value !== defaults[name])
    .map(([name, value]) => value === true ? `--${name}` : `--${name.replaceAll("_", "-")} ${value}`);
  const rest = complete ? [] : [` # on all ${of.train.toLocaleString("en")} training rows; this page has ${sizes.train.toLocaleString("en")}`];
  return [`onelayer train --data ${source}`, ...options, ...rest].join(" ");
}

async function train({run, data: name, settings: given, mistakes = []}) {
  const settings = settingsOf(given);
  if (mistakes.includes("init-0.1")) settings.init_std = 0.1;
  const data = name === "taught" ? taught.data() : sets[name];
  if (!data) throw new RangeError(`train: there is no data ${name}`);
  opened = training = null;
  const own = training = new Training(kernel, data, run, settings, mistakes);
  send({
    type: "started", run, columns: COLUMNS, data: data.description, rate: own.firstRate, features: data.d, epochs: settings.epochs,
    init_std: settings.init_std, mistakes: [...mistakes].sort(), command: mistakes.length || name === "taught" ? "" : commandOf(data.about, settings)
  });
  const history = [];
  let details = 0;
  while (!own.ended) {
    history.push(finite(own.epoch()));
    if (ready || own.ended) {
      const began = performance.now(), full = own.ended || began >= details;
      frame(own, history.splice(0), full);
      if (full) details = performance.now() + (performance.now() - began) / DETAILS_SHARE;
    }
    await turn();
    if (training !== own) own.ended ||= "cancelled";
  }
  send({type: "ended", run, why: own.ended, epoch: own.done});
}

function frame(of, history, full) {
  const row = history.at(-1), {sizes, K} = of.data, [more, arrays] = templatesOf(of);
  const accuracy = {train: interval(row[4], sizes.train), ...sizes.validation && {validation: interval(row[7], sizes.validation)}};
  const details = full ? {gradient_norm: of.slope, details_epoch: of.done} : {};
  if (full && sizes.validation) Object.assign(arrays, countsOf(of.answers("validation"), K));
  ready = false;
  send({type: "epoch", run: of.run, epoch: of.done, rate: row[1], accuracy, weights_norm: of.size, ...details, ...more, history}, arrays);
  if (picture) again().catch(error => complain("image", error, {id: picture?.id}));
}

function trained() {
  if (!training?.done) throw new RangeError("no epoch has ended yet; ask again");
  return training;
}

function complain(about, error, more) {
  if (about === "image") picture = null;
  send({type: "error", about, message: error.message, ...more});
}

async function again(seen = false) {
  const {data, settings, layer, run, done} = trained(), {id, arrays} = picture;
  if (!data.shape) throw new TypeError("the rows of these data are not images, so an image has no answer");
  const shape = String(data.shape);
  const own = picture;
  own.rows[shape] ??= await rowOf(arrays, data.shape, data.about.fit);
  if (picture !== own || training?.data !== data) return;
  const {logits, probabilities} = kernel.answer(layer, picture.rows[shape], settings.loss);
  const predicted = logits.indexOf(Math.max(...logits));
  const more = seen ? {seen: imagesOf(picture.rows[shape], data.shape)} : {};
  if (seen) more.seen.shape.shift();
  send({type: "answer", id, run, epoch: done, logits: [...logits], probabilities: [...probabilities], predicted, note: null}, more);
}

function explain({id}) {
  const {data: {shape, K, d}, layer: {templates, bias}, standardizer: {mean, scale, constant}, settings, layer, run, done} = trained();
  const row = picture?.id === id && picture.rows[String(shape)];
  if (!row) throw new RangeError("there is no such image now; send it again");
  const {logits, probabilities} = kernel.answer(layer, row, settings.loss);
  const classes = [...logits.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, Math.min(MOST_EXPLAINED, K));
  const size = shape[1] * shape[2], maps = new Float32Array(classes.length * size);
  classes.forEach((k, place) => row.forEach((x, j) => { if (!constant[j]) maps[place * size + j % size] += (x - mean[j]) / scale[j] * templates[k * d + j]; }));
  const of = array => classes.map(k => array[k]);
  send({type: "contributions", id, run, epoch: done, classes, bias: of(bias), logits: of(logits), probabilities: of(probabilities)}, {contributions: {data: maps, shape: [classes.length, shape[1], shape[2]]}});
}

function show({type, split, true: label, predicted}) {
  const own = trained(), {data} = own;
  if (split === "test" && !opened) throw new RangeError("the test rows are closed; open them first");
  if (split !== "test" && split !== "validation") throw new RangeError(`${type}: split is not one of validation, test`);
  if (split === "validation" && !data.sizes.validation) throw new RangeError("there are no validation rows");
  const found = split === "test" ? opened : own.answers("validation"), m = found.labels.length;
  const chosen = i => type === "cell" ? found.labels[i] === label && found.predictions[i] === predicted : found.labels[i] !== found.predictions[i];
  const all = [...found.labels.keys()].filter(chosen).sort((a, b) => found.confidences[b] - found.confidences[a]);
  const rows = all.slice(0, welcome.limits.most_shown).map(i => ({
    row: found.places[i], true: found.labels[i], predicted: found.predictions[i], probability: found.confidences[i], true_probability: found.probabilities[found.labels[i] * m + i]
  }));
  const images = new data.rows.constructor(rows.length * data.d);
  rows.forEach(({row}, at) => images.set(data.row(row), at * data.d));
  const arrays = data.shape && rows.length ? {images: imagesOf(images, data.shape)} : {};
  send({type: "images", about: type, run: own.run, split, rows, total: all.length, ...type === "cell" && {true: label, predicted}}, arrays);
}

function openTest() {
  const own = trained(), wrong = own.mistakes.includes("test-on-train"), split = wrong ? "train" : "test";
  if (!own.data.sizes[split]) throw new RangeError("there are no test rows");
  if (!wrong) own.data.timesRead++;
  opened = own.answers(split);
  const rows = opened.labels.length, times = own.data.timesRead;
  send({type: "test", run: own.run, epoch: own.done, times_read: times, accuracy: interval(opened.accuracy, rows), loss: opened.loss, rows, of_train: wrong}, countsOf(opened, own.data.K));
}

async function keep({name}) {
  const own = trained(), {data} = own;
  if (own.mistakes.length) throw new RangeError("a run with a mistake in it is not kept; switch the mistake off");
  if (!own.ended || own.ended === "cancelled") throw new RangeError("the training has not ended; wait for its end, then keep it");
  const file = `${String(name || "model").replace(/[^\w.-]/g, "_")}.safetensors`;
  const accuracy = {train: kernel.evaluate(own.places.train, own.settings.loss).accuracy, validation: data.sizes.validation ? own.answers("validation").accuracy : null, test: null};
  send({type: "kept", run: file, path: "your downloads", files: [file], accuracy, times_read: data.timesRead}, {file: {data: await modelFile(own)}});
}

const handlers = {
  hello() {},
  drawn() { ready = true; },
  train,
  cancel() { if (training) training.ended ||= "cancelled"; },
  cell: show,
  mistakes: show,
  "open-test": openTest,
  image({id}, arrays) {
    picture = id === null ? null : {id, arrays, rows: {}};
    if (picture && training?.done) return again(true);
  },
  explain,
  teach: async (message, arrays) => send(await taught.change(message, arrays)),
  keep,
};

onmessage = async ({data: {message, arrays}}) => {
  const type = message?.type;
  try {
    if (!Object.hasOwn(handlers, type)) throw new RangeError(`there is no message ${type}`);
    if (arrays?.file?.data.length > welcome.limits.most_bytes) throw new RangeError(`${type}: the file has more than ${welcome.limits.most_bytes} bytes`);
    await handlers[type](message, arrays ?? {});
  } catch (error) {
    complain(Object.hasOwn(handlers, type) ? type : "message", error, {id: message?.id, run: message?.run});
  }
};
send(welcome);
send(taught.describe());
