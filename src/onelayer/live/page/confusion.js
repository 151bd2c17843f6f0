// The confusion matrix: its cells are buttons that open the images behind them. With many classes, a picture and a list.

import {$, counted, el, write} from "./dom.js";
import {show} from "./gallery.js";
import {canvasOf, paint} from "./pictures.js";

const MOST_BUTTONS = 20; // classes
const LISTED = 40; // confusions, where there are more classes

export class Confusion {
  #names = [];
  #cells = []; // buttons, row by row
  #shares = [];
  #matrix = null;
  #asked = null; // the cell whose images are open, and its button
  #quiet = false; // its images come again by themselves, and leave the focus where it is
  #large = null; // {canvas, list} with many classes

  constructor(send, split = "validation", place = "confusion", gallery = "cell-images") {
    this.send = send;
    this.split = split;
    this.place = $(place);
    this.gallery = $(gallery);
  }

  classes(names) {
    this.#names = names;
    this.#cells = [];
    this.#shares = [];
    this.#matrix = this.#large = null;
    this.gallery.hidden = true;
    this.place.replaceChildren(names.length > MOST_BUTTONS ? this.#makeLarge() : this.#makeTable());
  }

  #makeTable() {
    const names = this.#names;
    const head = el("tr", {}, el("th", {scope: "col"}, el("span", {className: "corner"}, "true ↓ taken for →")), ...names.map(name => el("th", {scope: "col"}, el("span", {}, name))));
    const rows = names.map((name, k) => el("tr", {}, el("th", {scope: "row"}, name), ...names.map((_, j) => {
      const button = el("button", {type: "button", tabIndex: k + j ? -1 : 0}, "–");
      button.addEventListener("click", () => this.#open(k, j, button));
      this.#cells.push(button);
      return el("td", {className: k === j ? "right" : ""}, button);
    })));
    const table = el("table", {className: "confusion"}, el("caption", {}, "Rows by their true class and the class that the layer takes them for. Arrow keys move, Enter opens the rows behind a cell."), el("thead", {}, head), el("tbody", {}, ...rows));
    table.addEventListener("keydown", event => this.#move(event));
    return el("div", {className: "scroll"}, table);
  }

  // One cell at a time is in the order of Tab; arrows lead to the others.
  #move(event) {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    const at = this.#cells.indexOf(event.target);
    if (!step || at < 0) return;
    event.preventDefault();
    const K = this.#names.length;
    const [k, j] = [Math.floor(at / K) + step[0], at % K + step[1]];
    if (Math.min(k, j) < 0 || Math.max(k, j) >= K) return;
    this.#cells[at].tabIndex = -1;
    this.#cells[k * K + j].tabIndex = 0;
    this.#cells[k * K + j].focus();
  }

  #makeLarge() {
    const options = () => this.#names.map((name, k) => el("option", {value: k}, name));
    const selects = ["true", "predicted"].map(kind => el("select", {"aria-label": kind === "true" ? "True class" : "Class taken for"}, ...options()));
    const open = el("button", {type: "button", className: "small"}, "Open images");
    open.addEventListener("click", () => this.#open(Number(selects[0].value), Number(selects[1].value), open));
    const canvas = canvasOf("Confusion matrix as a picture; the list beside it names its largest cells");
    const list = el("ol", {className: "confusions", tabIndex: 0, "aria-label": "Most frequent confusions"});
    this.#large = {canvas, list};
    return el("div", {className: "large"}, el("div", {}, canvas, el("p", {className: "quiet"}, "Rows: true class. Columns: class taken for. Darker: more.")), list,
      el("p", {className: "chosen"}, selects[0], " taken for ", selects[1], " ", open));
  }

  #open(k, j, opener) {
    this.#asked = {k, j, opener};
    this.#quiet = false;
    this.send({type: "cell", true: k, predicted: j, split: this.split});
  }

  // Ask for the images of the open cell again: another layer fills it with others.
  again() {
    if (this.gallery.hidden) return;
    const {k, j, opener} = this.#asked;
    this.#open(k, j, opener);
    this.#quiet = true;
  }

  // Take the matrix and its images away.
  clear() {
    this.#cells = [];
    this.#matrix = this.#large = null;
    this.gallery.hidden = true;
    this.place.replaceChildren();
  }

  // Draw the counts (K, K).
  draw({data, shape: [K]}) {
    if (K !== this.#names.length) return;
    this.#matrix = data;
    const sums = Array.from({length: K}, (_, k) => data.subarray(k * K, k * K + K).reduce((sum, n) => sum + n, 0));
    if (this.#large) return this.#drawLarge(data, sums, K);
    this.#cells.forEach((button, at) => {
      const n = data[at];
      write(button, String(n));
      const share = (sums[Math.floor(at / K)] ? n / sums[Math.floor(at / K)] : 0).toFixed(2);
      if (this.#shares[at] === share) return;
      this.#shares[at] = share;
      button.style.setProperty("--share", share);
    });
  }

  // Name the cells in full; in no frame while it trains, as it takes long.
  settle() {
    if (this.#large || !this.#matrix) return;
    const K = this.#names.length;
    this.#cells.forEach((button, at) => {
      const [k, j] = [Math.floor(at / K), at % K];
      button.setAttribute("aria-label", `${counted(this.#matrix[at], "row")}: ${this.#names[k]}${k === j ? " recognised" : ` taken for ${this.#names[j]}`}`);
    });
  }

  #drawLarge(data, sums, K) {
    const rgb = new Uint8Array(3 * K * K);
    const found = [];
    for (let at = 0; at < K * K; at++) {
      const k = Math.floor(at / K);
      rgb.fill(255 - Math.round(225 * Math.sqrt(sums[k] ? data[at] / sums[k] : 0)), 3 * at, 3 * at + 3);
      if (data[at] && k !== at % K) found.push(at);
    }
    paint(this.#large.canvas, {data: rgb, shape: [K, K, 3]});
    found.sort((a, b) => data[b] - data[a]);
    const key = found.slice(0, LISTED).map(at => `${at}:${data[at]}`).join();
    if (this.#large.key === key || this.#large.list.contains(document.activeElement)) return;
    this.#large.key = key;
    this.#large.list.replaceChildren(...found.slice(0, LISTED).map(at => {
      const [k, j] = [Math.floor(at / K), at % K];
      const button = el("button", {type: "button", className: "plain"}, `${data[at]}: ${this.#names[k]} taken for ${this.#names[j]}`);
      button.addEventListener("click", () => this.#open(k, j, button));
      return el("li", {}, button);
    }));
  }

  // The images of a cell have come.
  images(message, arrays) {
    const [k, j] = [this.#names[message.true], this.#names[message.predicted]];
    const what = message.true === message.predicted ? `${k} recognised` : `${k} taken for ${j}`;
    show(this.gallery, `${what}: ${counted(message.total, "row")}`, message, arrays, this.#names, () => this.#asked.opener.focus(), this.#quiet);
  }
}
