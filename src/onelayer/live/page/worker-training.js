// Mini-batch gradient descent as training/sgd.py does it, an epoch a call, and the questions about its layer.

import {Random} from "./worker-random.js";
import {forTraining, mirrored, norm, safeStep, spectrum, standardizerOf} from "./worker-standardizer.js";

export const COLUMNS = ["epoch", "learning_rate", "train_loss", "train_cost", "train_accuracy", "validation_loss", "validation_cost", "validation_accuracy"];

// Of what "auto" decides, as in training/schedule.py: epochs without a fall, decays, the least fall as a share, and all epochs.
const PATIENCE = 5, DECAYS = 2, LEAST_FALL = 1e-4, MOST_EPOCHS = 1000;

// Rows of a data set, whose splits lie one after the other; `about` describes it to the page.
export class Data {
  timesRead = 0;
  #found = new Map();

  constructor(about, rows, labels) {
    const {image_shape: shape, sizes, classes} = about;
    Object.assign(this, {about, rows, labels, shape, sizes, K: classes.length, d: rows.length / labels.length});
  }

  get description() {
    return {...this.about, times_read: this.timesRead};
  }

  // The places of a split's rows.
  places(split) {
    const {train, validation} = this.sizes, begin = {train: 0, validation: train, test: train + validation}[split];
    return Int32Array.from({length: this.sizes[split]}, (_, k) => begin + k);
  }

  row(place) {
    return this.rows.subarray(place * this.d, (place + 1) * this.d);
  }

  standardizer({flip}, raw) {
    const of = this.#once("rows", () => standardizerOf(this.rows, this.sizes.train, this.d));
    const used = flip && this.shape ? this.#once("flips", () => mirrored(of, this.shape)) : of;
    return raw ? {mean: new Float64Array(this.d), scale: new Float64Array(this.d).fill(1), constant: used.constant} : used;
  }

  safeStep(settings, raw) {
    const key = `step ${raw} ${settings.flip}`;
    const found = this.#once(key, () => spectrum(this.rows, this.sizes.train, this.d, this.standardizer(settings, raw)));
    return safeStep(found, this.sizes.train, this.K, settings);
  }

  #once(key, make) {
    if (!this.#found.has(key)) this.#found.set(key, make());
    return this.#found.get(key);
  }
}

export class Training {
  done = 0; // epochs
  left = 1; // share of the initial weights that the penalty has left
  #auto = {decays: 0, waited: 0, stalled: false, first: null, lowest: Infinity, best: null, back: false}; // the best epoch, and whether the next starts from it
  ended = "";
  #random;

  constructor(kernel, data, run, settings, mistakes) {
    Object.assign(this, {kernel, data, run, settings, mistakes});
    const raw = mistakes.includes("raw-pixels");
    this.standardizer = data.standardizer(settings, raw);
    this.firstRate = settings.learning_rate === "auto" ? data.safeStep(settings, raw) : settings.learning_rate;
    kernel.open(data.rows, data.labels, forTraining(this.standardizer), data.K);
    this.places = Object.fromEntries(["train", "validation", "test"].map(split => [split, data.places(split)]));
    this.#random = new Random(settings.seed);
    this.initial = this.#draw();
    kernel.layer = this.layer = this.initial;
  }

  // The initial weights, drawn one class after the other, and a bias by the shares of the classes.
  #draw() {
    const {data: {d, K, labels, sizes}, settings: {init_std: std, loss}, standardizer: {constant}} = this;
    const templates = new Float32Array(K * d);
    for (let k = 0, at = 0; k < K; k++) for (let j = 0; j < d; j++, at++) {
      const drawn = this.#random.normal() * std + 0;
      templates[at] = constant[j] ? 0 : drawn;
    }
    const rows = new Float64Array(K);
    for (const label of labels.subarray(0, sizes.train)) rows[label]++;
    const total = rows.reduce((sum, count) => sum + Math.max(count, 0.5), 0);
    const shares = K > 1 ? rows.map(count => Math.max(count, 0.5) / total) : [0.5];
    const bias = Float32Array.from(shares, share => Math.log(share) - (loss === "softmax" ? 0 : Math.log1p(-share)));
    return {templates, bias};
  }

  // Train the next epoch, and return its numbers in the order of COLUMNS.
  epoch() {
    const {kernel, data, settings, places: {train, validation}} = this, {decay_every: every, loss, l2} = settings;
    const rate = this.firstRate * settings.decay_factor ** (every === "auto" ? this.#auto.decays : every ? Math.floor(this.done / every) : 0);
    if (this.#auto.back) {
      kernel.layer = this.#auto.best.layer;
      this.left = this.#auto.best.left;
      this.#auto.back = false;
    }
    const drawn = this.#random.permutation(train.length);
    const flipped = settings.flip && data.shape ? Uint8Array.from(drawn, () => Number(this.#random.uniform() < 0.5)) : null;
    const order = this.mistakes.includes("no-shuffle") ? train : drawn;
    kernel.epoch(order, flipped, data.shape?.[2] ?? 0, settings, rate);
    this.done++;
    this.layer = kernel.layer;
    this.left *= (1 - 2 * rate * l2) ** Math.ceil(train.length / settings.batch_size);
    this.size = norm(this.layer.templates);
    const penalty = l2 * this.size ** 2, none = {loss: NaN, accuracy: NaN};
    const [own, held] = [train, validation].map(places => places.length ? kernel.evaluate(places, loss) : none);
    if (!Number.isFinite(own.loss + penalty) || validation.length && !Number.isFinite(held.loss)) {
      this.ended = `the cost after epoch ${this.done} is not a finite number: the steps are too long; try a learning rate below ${Number(this.firstRate.toPrecision(6))}`;
    } else if (this.done >= settings.epochs) this.ended = settings.epochs === 1 ? "the one epoch is done" : `all ${settings.epochs} epochs are done`;
    else this.#decide(validation.length ? held.loss : own.loss + penalty, validation.length ? "validation loss" : "training cost");
    return [this.done, rate, own.loss, own.loss + penalty, own.accuracy, held.loss, held.loss + penalty, held.accuracy];
  }

  // Decide about the next epoch by a loss: its learning rate, whether it starts from the best epoch, and the end.
  #decide(loss, name) {
    const {settings: {epochs, decay_every: every}} = this, auto = this.#auto;
    auto.first ??= loss;
    auto.waited = loss < auto.lowest - LEAST_FALL * auto.first ? 0 : auto.waited + 1;
    if (loss < auto.lowest) auto.best = {layer: this.layer, left: this.left};
    auto.lowest = Math.min(auto.lowest, loss);
    if (auto.waited >= PATIENCE && every === "auto" && auto.decays < DECAYS) {
      auto.decays++;
      auto.waited = 0;
      auto.back = true;
    }
    auto.stalled ||= auto.waited >= PATIENCE;
    if (epochs !== "auto") return;
    if (auto.stalled) this.ended = `the ${name} has stopped falling`;
    else if (this.done >= MOST_EPOCHS) this.ended = `${MOST_EPOCHS.toLocaleString("en")} epochs are done, the most that auto trains`;
  }

  get slope() {
    return this.kernel.slope(this.places.train, this.settings);
  }

  // Logits (K, m), probabilities (K, m), predictions (m,), accuracy and mean loss of the layer on a split.
  answers(split) {
    const places = this.places[split], m = places.length, {K, labels} = this.data;
    const own = labels.subarray(places[0], places[0] + m);
    const found = this.kernel.answers(this.layer, places, own, this.settings.loss);
    const predictions = new Int32Array(m), confidences = new Float32Array(m);
    let right = 0;
    for (let i = 0; i < m; i++) {
      let best = 0;
      for (let k = 1; k < K; k++) if (found.logits[k * m + i] > found.logits[best * m + i]) best = k;
      predictions[i] = best;
      confidences[i] = found.probabilities[best * m + i];
      right += Number(best === own[i]);
    }
    return {...found, places, labels: own, predictions, confidences, accuracy: right / m};
  }

  // What training has added to the initial weights.
  get learnt() {
    const {left, initial: {templates: before}, standardizer: {constant}, data: {d}} = this;
    return this.layer.templates.map((w, at) => w - (constant[at % d] ? 0 : left * before[at]));
  }
}
