// Loss and cost by epoch: the run of this moment, and earlier settings as faint lines that can be pinned and named.

import {axes, colours, line, prepare} from "./chart.js";
import {$, dark, el, nats, percent} from "./dom.js";
import {inWords} from "./words.js";

const MOST_FAINT = 6; // earlier settings that are not pinned
const MOST_PINNED = 12;

export class Curves {
  #current = null; // {run, rows, columns, settings, epochs, words, best}
  #earlier = []; // the same, with `pinned` and `name`
  #stale = true;

  constructor() {
    const again = () => { this.#stale = true; this.draw(); };
    new ResizeObserver(again).observe($("loss-chart"));
    dark.addEventListener("change", again);
  }

  // A new run begins; the one before becomes a faint line if it had come far enough to be worth one.
  started({run, columns, epochs}, settings, knobs, mistakes) {
    const before = this.#current;
    if (before && before.rows.length >= (before.ended ? 2 : 10)) {
      this.#earlier = this.#earlier.filter(run => run.pinned || run.words !== before.words);
      this.#earlier.push(before);
      const faint = this.#earlier.filter(run => !run.pinned);
      if (faint.length > MOST_FAINT) this.#earlier.splice(this.#earlier.indexOf(faint[0]), 1);
      this.#list();
    }
    this.#current = {run, columns, epochs, rows: [], words: inWords(settings, knobs, mistakes), best: null, name: "", pinned: false};
    this.#stale = true;
  }

  add({history}) {
    if (!this.#current) return;
    this.#current.rows.push(...history);
    this.#stale = true;
  }

  ended() {
    if (this.#current) this.#current.ended = true;
    this.#describe();
  }

  best({cost}) {
    if (this.#current) this.#current.best = cost;
    this.#stale = true;
    this.draw();
  }

  forget() {
    this.#earlier = [];
    this.#current = null;
    this.#list();
  }

  // The last row of the current run by the names of its columns.
  get last() {
    const run = this.#current;
    return run?.rows.length ? Object.fromEntries(run.columns.map((name, k) => [name, run.rows.at(-1)[k]])) : null;
  }

  draw() {
    if (!this.#stale || !this.#current) return;
    this.#stale = false;
    for (const kind of ["loss", "cost"]) this.#chart(kind);
  }

  #points(run, column) {
    const at = run.columns.indexOf(column), epoch = run.columns.indexOf("epoch");
    return run.rows.map(row => [row[epoch], row[at]]);
  }

  #chart(kind) {
    const run = this.#current;
    const paper = prepare($(`${kind}-chart`));
    if (!paper.width) return;
    const colour = colours();
    const mine = ["train", "validation"].map(split => this.#points(run, `${split}_${kind}`));
    const values = mine.flat().map(([, v]) => v).filter(Number.isFinite);
    const pinned = this.#earlier.filter(other => other.pinned);
    for (const other of pinned) values.push(...this.#points(other, `validation_${kind}`).map(([, v]) => v).filter(Number.isFinite));
    values.sort((a, b) => a - b);
    // The lowest cost widens the chart, but a far one would make all other lines flat.
    const near = run.best > values[0] - 1.5 * (values.at(-1) - values[0]);
    const line0 = kind === "cost" && near ? run.best : null;
    if (line0 != null) values.unshift(Math.min(line0, values[0]));
    const low = values[0] ?? 0;
    const middle = values[values.length >> 1] ?? 1;
    const high = Math.min(values.at(-1) ?? 1, middle + 8 * (middle - low) + 0.2); // one wild value does not flatten the rest
    const margin = Math.max((high - low) * 0.08, 1e-3);
    const reached = Math.max(1, ...[run, ...pinned].map(other => other.rows.at(-1)?.[other.columns.indexOf("epoch")] ?? 0));
    const first = Math.min(run.rows[0]?.[run.columns.indexOf("epoch")] ?? 1, 1);
    const x = [first, Math.max(first + 1, reached, Number.isFinite(run.epochs) ? run.epochs : 0)];
    const scale = {x, y: [low - margin, high + margin], xLabel: run.epochs ? "epoch" : "iteration", yLabel: `${kind} (nats)`};
    const {context} = paper;
    context.save();
    const place = axes(paper, scale, colour, true);
    place.clip();
    for (const other of this.#earlier) {
      const style = other.pinned ? {colour: colour("quiet"), wide: 1.6, name: other.name || other.words} : {colour: colour("faint"), wide: 1.2};
      line(context, place, this.#points(other, `validation_${kind}`), {dash: [6, 3], ...style});
    }
    if (line0 != null) line(context, place, x.map(v => [v, line0]), {colour: colour("ink"), dash: [1, 3], wide: 1.4, name: "lowest training cost", first: true});
    const lower = (mine[0].at(-1)?.[1] ?? 0) <= (mine[1].at(-1)?.[1] ?? 0);
    line(context, place, mine[1], {colour: colour("validation"), dash: [6, 3], name: "validation", above: lower});
    line(context, place, mine[0], {colour: colour("train"), name: "train", above: !lower});
    context.restore();
  }

  // Put into words what the charts show; not in every frame, or a screen reader would never end.
  #describe() {
    const last = this.last;
    if (!last) return;
    for (const kind of ["loss", "cost"]) {
      const words = `after epoch ${last.epoch}: train ${nats(last[`train_${kind}`])}, validation ${nats(last[`validation_${kind}`])} nats`;
      $(`${kind}-chart`).setAttribute("aria-label", `Curves of the ${kind}; ${words}`);
    }
  }

  // The list of earlier settings, with a switch to pin each and a field to name it.
  #list() {
    const rows = [...this.#earlier].reverse().map(run => {
      const last = Object.fromEntries(run.columns.map((name, k) => [name, run.rows.at(-1)[k]]));
      const pin = el("input", {type: "checkbox", checked: run.pinned, "aria-label": `Pin ${run.words}`});
      const name = el("input", {type: "text", value: run.name, maxLength: 40, placeholder: run.words, hidden: !run.pinned, "aria-label": `Name of ${run.words}`});
      pin.addEventListener("change", () => {
        if (pin.checked && this.#earlier.filter(other => other.pinned).length >= MOST_PINNED) pin.checked = false;
        run.pinned = pin.checked;
        name.hidden = !run.pinned;
        this.#stale = true;
        this.draw();
      });
      name.addEventListener("input", () => { run.name = name.value; this.#stale = true; this.draw(); });
      return el("li", {}, el("label", {}, pin, el("span", {}, run.words)), el("span", {className: "quiet"}, `validation ${percent(last.validation_accuracy)}, ${nats(last.validation_loss)} nats`), name);
    });
    $("earlier-list").replaceChildren(...rows);
    $("earlier").hidden = !rows.length;
  }
}
