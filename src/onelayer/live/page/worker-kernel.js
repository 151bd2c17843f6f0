// The compiled kernel in a browser: its memory, and the calls of kernel/wasm.cpp.

const LOSSES = {softmax: 0, sigmoid: 1}; // as in kernel.hpp
const PIXELS = 0, FEATURES = 2;

export class Kernel {
  #wasm;
  #n; #d; #K; #at;

  // Read the kernel, which lies in a gzip file.
  static async load(url) {
    const {body, ok, status} = await fetch(url);
    if (!ok) throw new Error(`the kernel cannot be read: the server answers ${status}`);
    const code = await new Response(body.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    const {instance} = await WebAssembly.instantiate(code, {math: {log: Math.log}});
    return new Kernel(instance.exports);
  }

  constructor(exports) {
    this.#wasm = exports;
  }

  // Take rows (n, d), pixels or float32, and what standardises them; the rows before are gone. Row n may change.
  open(rows, labels, {mean, scale}, K) {
    this.#wasm.release();
    const [n, d] = [labels.length, mean.length];
    this.pixels = rows instanceof Uint8Array;
    [this.#n, this.#d, this.#K] = [n, d, K];
    this.#at = {};
    this.#put("rows", rows, d * rows.BYTES_PER_ELEMENT);
    this.#put("mean", Float64Array.from(mean));
    this.#put("scale", Float64Array.from(scale));
    this.#put("labels", long(labels), 8);
    this.#put("ones", new Float64Array(n + 1).fill(1));
    for (const [name, bytes] of Object.entries({
      templates: 4 * K * d, bias: 4 * K, exact: 8 * K * d, exactBias: 8 * K, sums: 8 * (K + 1),
      places: 8 * (n + 1), own: 8 * (n + 1), flipped: n, scores: 4 * K * (n + 1)
    })) this.#at[name] = this.#reserve(bytes);
  }

  #reserve(bytes) {
    const address = this.#wasm.reserve(bytes) >>> 0;
    if (!address) throw new RangeError("the browser gives no more memory; take fewer or smaller images");
    return address;
  }

  #put(name, array, more = 0) {
    this.#at[name] = this.#reserve(array.byteLength + more);
    this.#set(name, array);
  }

  #set(name, array, place = 0) {
    this.#view(array.constructor, name, array.length, place).set(array);
  }

  #view(Type, name, length, place = 0) {
    return new Type(this.#wasm.memory.buffer, this.#at[name] + place * Type.BYTES_PER_ELEMENT, length);
  }

  // Templates (K, d) and bias (K,), float32, that training changes.
  get layer() {
    const [K, d] = [this.#K, this.#d];
    return {templates: this.#view(Float32Array, "templates", K * d).slice(), bias: this.#view(Float32Array, "bias", K).slice()};
  }

  set layer({templates, bias}) {
    this.#set("templates", templates);
    this.#set("bias", bias);
  }

  #visit(places) {
    const at = this.#at;
    this.#set("places", long(places));
    const type = this.pixels ? PIXELS : FEATURES;
    this.#wasm.visit(at.rows, type, this.#d, at.mean, at.scale, at.labels, at.places, places.length, this.#K);
  }

  // Train on the rows at these places, in their order.
  epoch(places, flipped, width, {loss, batch_size: batch, l2}, learningRate) {
    const at = this.#at;
    this.#visit(places);
    if (flipped) this.#set("flipped", flipped);
    this.#wasm.run_epoch(at.templates, at.bias, LOSSES[loss], flipped ? at.flipped : 0, width, Math.min(batch, places.length), learningRate, l2);
  }

  // The norm of the gradient of the cost over the rows at these places, by a step of length 1 that is taken back.
  slope(places, {loss, l2}) {
    const before = this.layer;
    this.epoch(places, null, 0, {loss, batch_size: places.length, l2}, 1);
    const after = this.layer;
    this.layer = before;
    let sum = 0;
    for (const name of ["templates", "bias"]) before[name].forEach((w, at) => { sum += (w - after[name][at]) ** 2; });
    return Math.sqrt(sum);
  }

  // The mean loss of the layer in training on the rows at these places, and the share that is right.
  evaluate(places, loss) {
    const at = this.#at;
    this.#visit(places);
    this.#wasm.evaluate(at.templates, at.bias, LOSSES[loss], at.sums);
    const [total, right] = this.#view(Float64Array, "sums", 2);
    return {loss: total / places.length, accuracy: right / places.length};
  }

  // Logits and probabilities (K, m) of the rows at these m places by a layer, and the mean loss for their labels.
  answers({templates, bias}, places, labels, loss) {
    const at = this.#at, [K, m] = [this.#K, places.length];
    this.#visit(places);
    this.#set("exact", Float64Array.from(templates));
    this.#set("exactBias", Float64Array.from(bias));
    this.#set("own", long(labels));
    this.#wasm.scores(at.exact, at.scores);
    const logits = this.#view(Float32Array, "scores", K * m).slice();
    for (let k = 0; k < K; k++) for (let i = 0; i < m; i++) logits[k * m + i] += bias[k];
    this.#wasm.probabilities(at.scores, at.exactBias, at.own, at.ones, m, K, LOSSES[loss], at.sums);
    return {logits, probabilities: this.#view(Float32Array, "scores", K * m).slice(), loss: this.#view(Float64Array, "sums", 1, K)[0] / m};
  }

  // The same of one more row: probabilities and logits (K,).
  answer(layer, row, loss) {
    this.#set("rows", row, this.#n * this.#d);
    return this.answers(layer, [this.#n], [0], loss);
  }
}

// Whole numbers in 64 bits.
function long(numbers) {
  const halves = new Int32Array(2 * numbers.length);
  for (let k = 0; k < numbers.length; k++) halves[2 * k] = numbers[k];
  return halves;
}
