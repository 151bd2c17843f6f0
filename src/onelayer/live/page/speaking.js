// Patches that speak for and against the classes of a model on patch features, as the picture patches.png of a run shows them.

import {el, signedShort} from "./dom.js";
import {canvasOf, paint, paintSigned} from "./pictures.js";

const SIDES = ["speak for it", "speak against it"];

// A canvas with a frame around a part of it, in shares of its sides.
function framed(canvas, top, left, height, width) {
  const frame = el("i");
  for (const [side, share] of Object.entries({top, left, height, width})) frame.style[side] = `${100 * share}%`;
  return el("span", {className: "framed"}, canvas, frame);
}

// A patch of an image in its own range.
function patchOf({data}, [height, width], {example, row, column, size}) {
  const patch = new Uint8Array(3 * size * size);
  for (let y = 0; y < size; y++) {
    const from = 3 * ((example * height + row + y) * width + column);
    patch.set(data.subarray(from, from + 3 * size), 3 * size * y);
  }
  const [low, high] = [Math.min(...patch), Math.max(...patch)];
  return {data: patch.map(v => high > low ? Math.round(255 * (v - low) / (high - low)) : 128), shape: [size, size, 3]};
}

function filter(one, examples, limit, names) {
  const {example, row, column, size, label, weight, windows, window: [y, x]} = one;
  const sides = examples.shape.slice(1, 3), [h, w] = sides, [down, across] = [windows.length, windows[0].length];
  const words = `${signedShort(Number(weight.toPrecision(3)))}, ${names[label]}`;
  const [patch, image, weights] = ["Patch", "Its image", "Weights by window"].map(canvasOf);
  paint(patch, patchOf(examples, sides, one));
  paint(image, examples, example);
  weights.style.aspectRatio = `${w} / ${h}`;
  paintSigned(weights, {data: windows.flat(), shape: [down, across]}, 0, limit);
  const parts = [patch, framed(image, row / h, column / w, size / h, size / w), framed(weights, y / down, x / across, 1 / down, 1 / across)];
  return el("figure", {}, el("div", {className: "views", "aria-hidden": "true"}, ...parts), el("figcaption", {}, words));
}

// The elements for all classes; the weights are coloured from -limit to limit.
export function speaking(classes, examples, limit, names) {
  return classes.map((sides, k) => el("section", {}, el("h4", {}, names[k]), ...sides.map((side, s) =>
    el("div", {className: s ? "against" : "for"}, el("p", {}, SIDES[s]), ...side.map(one => filter(one, examples, limit, names))))));
}
