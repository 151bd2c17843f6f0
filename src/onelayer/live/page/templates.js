// The weights of each class as pictures, or as bars where the features are not pixels.

import {$, el, percent, short, signedShort, write} from "./dom.js";
import {canvasOf, paint, paintCodes} from "./pictures.js";
import {speaking} from "./speaking.js";

const VECTORS = "These features are not pixels, so the layer has no templates; its strongest weights are shown.";
const PATCHES = "A model on patches has no templates. These are the filters with the largest weights: the patch of a training image that excites each most, the image, and the weights in the windows of an image, with the window of the patch framed.";
const TWINS = " A filter counts for its mirror image too, in the mirrored window.";
const VIEWS = {weights: "weights", learnt: "learnt part of the weights", signed: "size and sign of the weights"};

export class Templates {
  #tiles = []; // of each class: {figure, canvases: {view: canvas}, number}
  #seen = new Set(); // tiles on the screen: others are not drawn
  #frame = null;
  #names = [];
  #spoken = null; // the message whose patches are shown
  #random = false; // the weights began as random numbers, so that the learnt part is another picture
  #watch = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) this.#seen[isIntersecting ? "add" : "delete"](target);
    this.#paint();
  }, {rootMargin: "100px"});

  constructor() {
    for (const view of Object.keys(VIEWS)) $(`view-${view}`).addEventListener("change", () => { this.#arrange(); this.#paint(); });
  }

  // New data: make a tile for each class.
  classes(names) {
    this.#watch.disconnect();
    this.#seen.clear();
    this.#frame = null;
    this.#names = names;
    this.#tiles = names.map(name => {
      const canvases = Object.fromEntries(Object.entries(VIEWS).map(([view, words]) => [view, canvasOf(`${name}: ${words}`)]));
      const number = el("span", {className: "quiet"});
      const figure = el("figure", {}, el("div", {className: "views"}, ...Object.values(canvases)), el("figcaption", {}, el("b", {}, name), number));
      this.#watch.observe(figure);
      return {figure, canvases, number, painted: false};
    });
    $("template-patches").replaceChildren();
    $("template-tiles").replaceChildren(...this.#tiles.map(tile => tile.figure));
    $("template-tiles").classList.toggle("many", names.length > 30);
    this.#arrange();
  }

  #arrange() {
    $("initial").hidden = !this.#random;
    for (const view of Object.keys(VIEWS)) {
      const open = $(`view-${view}`).checked && (view !== "learnt" || this.#random);
      for (const {canvases} of this.#tiles) canvases[view].hidden = !open;
    }
    $("signed-scale").hidden = !$("view-signed").checked;
  }

  // Patch features: the patches that speak for and against each class, with the scale of their weights.
  patches(message, {examples}) {
    if (message === this.#spoken) return;
    this.#spoken = message;
    const {speaking: classes, speaking_limit: limit, mirrored} = message;
    $("signed-scale").hidden = false;
    $("template-patches").replaceChildren(...speaking(classes, examples, limit, this.#names));
    write($("signed-limit"), `±${short(limit)} a standard deviation`);
    write($("template-note"), PATCHES + (mirrored ? TWINS : ""));
  }

  draw(message, arrays) {
    this.#frame = {message, arrays};
    const pictures = Boolean(arrays.learnt);
    if (this.#random !== Boolean(arrays.weights)) {
      this.#random = !this.#random;
      this.#arrange();
    }
    $("template-views").hidden = $("template-tiles").hidden = !pictures;
    $("template-bars").hidden = !message.strongest;
    const patches = !pictures && !message.strongest;
    if (!patches) this.#spoken = null;
    if (!this.#spoken) $("template-patches").replaceChildren();
    $("template-patches").hidden = !patches;
    $("signed-scale").hidden = pictures ? !$("view-signed").checked : !this.#spoken;
    if (!this.#spoken) write($("template-note"), patches ? PATCHES : VECTORS);
    $("template-note").hidden = pictures;
    if (pictures) this.#paint();
    else if (message.strongest) this.#bars(message.strongest, message.largest);
  }

  // Draw those that are not on the screen too, once a training has ended.
  settle() {
    for (const tile of this.#tiles) tile.painted = false;
    this.#paint();
  }

  #paint() {
    if (!this.#frame?.arrays.learnt) return;
    const {message: {signed}, arrays} = this.#frame;
    const pictures = {...arrays, weights: arrays.weights ?? arrays.learnt};
    const drawn = arrays.learnt.shape[0];
    this.#tiles.forEach((tile, k) => {
      const {figure, canvases} = tile;
      if (tile.painted && !this.#seen.has(figure) || k >= drawn) return;
      tile.painted = true;
      for (const [view, canvas] of Object.entries(canvases)) {
        if (!canvas.hidden && pictures[view]) (view === "signed" ? paintCodes : paint)(canvas, pictures[view], k);
      }
    });
    if (signed) write($("signed-limit"), `±${short(signed.limit)} a grey level`);
  }

  // The share of the validation rows of each class that are classified rightly, below its picture.
  recalls({data, shape: [K]}) {
    this.#tiles.forEach(({number}, k) => {
      let total = 0;
      for (let j = 0; j < K; j++) total += data[k * K + j];
      write(number, total ? `${percent(data[k * K + k] / total).replace(/\.\d+/, "")} right` : "no rows");
    });
  }

  // Vectors: the strongest weights of each class as bars, on one scale.
  #bars(strongest, limit) {
    const tables = strongest.map((weights, k) => {
      const rows = weights.map(([feature, weight]) => {
        const bar = el("i", {className: weight < 0 ? "against" : ""});
        const long = 50 * Math.abs(weight) / limit;
        bar.style.width = `${long}%`;
        bar.style.left = `${weight < 0 ? 50 - long : 50}%`;
        return el("tr", {}, el("th", {scope: "row"}, `feature ${feature}`), el("td", {}, bar), el("td", {}, signedShort(weight)));
      });
      return el("table", {}, el("caption", {}, this.#names[k]), el("tbody", {}, ...rows));
    });
    $("template-bars").replaceChildren(...tables);
  }
}
