// Mean and scale of the training rows, as features/standardizer.py has them, and the longest safe step on them.

import {Random} from "./worker-random.js";

// Mean, scale and the constant features of rows 0 to n - 1 of d numbers. The sums of pixels are exact.
export function standardizerOf(rows, n, d) {
  const [mean, scale] = [new Float64Array(d), new Float64Array(d)], constant = new Uint8Array(d);
  const [total, squares] = [new Float64Array(d), new Float64Array(d)];
  const origin = rows instanceof Uint8Array ? new Float64Array(d) : Float64Array.from(rows.subarray(0, d));
  for (let i = 0, at = 0; i < n; i++) for (let j = 0; j < d; j++) total[j] += rows[at++] - origin[j];
  if (rows instanceof Uint8Array) {
    for (let i = 0, at = 0; i < n; i++) for (let j = 0; j < d; j++) squares[j] += rows[at] * rows[at++];
  } else {
    for (let i = 0, at = 0; i < n; i++) for (let j = 0; j < d; j++) squares[j] += (rows[at++] - origin[j] - total[j] / n) ** 2;
  }
  for (let j = 0; j < d; j++) {
    const spread = rows instanceof Uint8Array ? (n * squares[j] - total[j] ** 2) / n : squares[j];
    mean[j] = origin[j] + total[j] / n;
    constant[j] = Number(spread === 0);
    scale[j] = spread === 0 ? 1 : Math.sqrt(spread / n);
  }
  return {mean, scale, constant};
}

// The standardizer of images that are mirrored half of the time: a constant pixel takes what its mirror pixel has.
export function mirrored({mean, scale, constant}, [channels, height, width]) {
  const found = {mean: mean.slice(), scale: scale.slice(), constant: constant.slice()};
  for (let row = 0; row < channels * height; row++) {
    for (let x = 0; x < width; x++) {
      const j = row * width + x, other = row * width + width - 1 - x, half = (mean[j] - mean[other]) / 2;
      if (!constant[j] || (constant[other] && half === 0)) continue;
      found.mean[j] = constant[other] ? mean[j] - half : mean[other];
      found.scale[j] = constant[other] ? Math.abs(half) : scale[other];
      found.constant[j] = 0;
    }
  }
  return found;
}

// The scale in training makes constant features 0, and their gradients too.
export const forTraining = ({mean, scale, constant}) => ({mean, scale: scale.map((s, j) => constant[j] ? Infinity : s)});

const ROWS = 512, ROUNDS = 30;

// The largest eigenvalue of the mean of x x^T, and its trace, over some rows x with a 1 for the bias: see training/step.py.
export function spectrum(rows, n, d, standardizer) {
  const m = Math.min(n, ROWS), wide = d + 1, X = new Float64Array(m * wide);
  const {mean, scale} = forTraining(standardizer);
  let trace = 0;
  for (let i = 0; i < m; i++) {
    const from = (m > 1 ? Math.round(i * (n - 1) / (m - 1)) : 0) * d, to = i * wide;
    for (let j = 0; j < d; j++) trace += (X[to + j] = (rows[from + j] - mean[j]) / scale[j]) ** 2;
    X[to + d] = 1;
    trace++;
  }
  const random = new Random(0);
  let v = Float64Array.from({length: wide}, () => random.normal()), length = norm(v);
  for (let round = 0; round < ROUNDS; round++) {
    const next = new Float64Array(wide);
    for (let i = 0; i < m; i++) {
      const x = X.subarray(i * wide, (i + 1) * wide);
      let product = 0;
      for (let j = 0; j < wide; j++) product += x[j] * v[j];
      product /= length * m;
      for (let j = 0; j < wide; j++) next[j] += x[j] * product;
    }
    const before = length;
    v = next;
    length = norm(v);
    if (Math.abs(length - before) < 1e-14 * length) break; // more rounds would only round
  }
  return {largest: length, trace: trace / m};
}

export function norm(v) {
  let sum = 0;
  for (let j = 0; j < v.length; j++) sum += v[j] * v[j];
  return Math.sqrt(sum);
}

// Three quarters of the longest learning rate at which a mean batch cannot overshoot.
export function safeStep({largest, trace}, n, K, {loss, batch_size: batch, l2}) {
  const curvature = largest + (batch < n ? (trace - largest) / batch : 0);
  return 1.5 / ((loss === "softmax" ? 1 / 2 : 1 / (4 * K)) * curvature + 2 * l2);
}
