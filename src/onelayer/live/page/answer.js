// The answer to an image: probabilities while the layer learns, and maps of what each pixel adds to the logits.

import {$, atMost, el, percent, signedShort, write} from "./dom.js";
import {canvasOf, paint, paintSigned} from "./pictures.js";

const SHOWN = 12; // classes with a bar of their own: all if there are no more, else the likeliest
const EXPLAINED = 3;

export class Answer {
  #names = [];
  #bars = [];
  #last = null; // {id, probabilities}
  #maps = [];
  #seen = false; // the picture that the model sees is shown, or was asked for
  onunseen = () => {};

  constructor(send) {
    this.ask = atMost(700, () => {
      if (this.#last && $("explained").open) send({type: "explain", id: this.#last.id});
    });
    $("explained").addEventListener("toggle", () => this.ask());
  }

  classes(names) {
    this.#names = names;
    this.clear();
  }

  clear() {
    this.#last = null;
    this.#seen = false;
    this.#maps = [];
    $("answer").hidden = true;
    $("contributions").replaceChildren();
  }

  #likeliest(count) {
    const {probabilities} = this.#last;
    return [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, count);
  }

  show({id, epoch, probabilities, note}, {seen}) {
    if (probabilities.length !== this.#names.length) return;
    this.#last = {id, probabilities};
    if (seen) {
      paint($("seen"), seen);
      write($("answer-note"), note ?? "");
    } else if (!this.#seen) this.onunseen(); // the image came before the first epoch
    this.#seen = true;
    const few = this.#names.length <= SHOWN;
    const shown = few ? [...this.#names.keys()] : this.#likeliest(SHOWN);
    if (this.#bars.length !== shown.length || $("answer").hidden) this.#makeBars(shown.length);
    const [best] = this.#likeliest(1);
    shown.forEach((k, place) => {
      const {row, name, bar, number} = this.#bars[place];
      write(name, this.#names[k]);
      write(number, percent(probabilities[k]));
      bar.style.width = `${100 * probabilities[k]}%`;
      row.classList.toggle("likeliest", k === best);
    });
    const sum = probabilities.reduce((total, p) => total + p, 0);
    write($("answer-words"), `${this.#names[best]}, ${percent(probabilities[best])}${epoch == null ? "" : `, after epoch ${epoch}`}`);
    write($("answer-sum"), Math.abs(sum - 1) < 1e-3 ? "The probabilities sum to 1." : `Each class has a sigmoid of its own, so the probabilities need not sum to 1 (here ${sum.toFixed(3)}).`);
    $("answer").hidden = false;
    this.ask();
  }

  #makeBars(count) {
    this.#bars = Array.from({length: count}, () => {
      const [name, bar, number] = [el("th", {scope: "row"}), el("i"), el("td")];
      const row = el("tr", {}, name, el("td", {}, bar), number);
      return {row, name, bar, number};
    });
    $("probabilities").replaceChildren(...this.#bars.map(({row}) => row));
  }

  // Maps that sum, with the bias, to the logits.
  explain({classes: all, bias, logits}, {contributions: array}) {
    const classes = all.slice(0, EXPLAINED);
    const size = array.shape[1] * array.shape[2];
    const ends = array.data.subarray(0, classes.length * size).reduce((most, v) => Math.max(most, Math.abs(v)), 1e-9);
    while (this.#maps.length < classes.length) {
      const [canvas, name, words] = [canvasOf("Contributions of the pixels"), el("b"), el("span")];
      const figure = el("figure", {}, canvas, el("figcaption", {}, name, words));
      this.#maps.push({canvas, name, words, figure});
    }
    classes.forEach((k, place) => {
      const {canvas, name, words} = this.#maps[place];
      paintSigned(canvas, array, place, ends);
      const sum = array.data.subarray(place * size, (place + 1) * size).reduce((total, v) => total + v, 0);
      canvas.setAttribute("aria-label", `Pixels that speak for and against ${this.#names[k]}`);
      write(name, this.#names[k]);
      write(words, `pixels ${signedShort(sum)}, bias ${signedShort(bias[place])}: logit ${signedShort(logits[place])}`);
    });
    $("contributions").replaceChildren(...this.#maps.slice(0, classes.length).map(({figure}) => figure));
    write($("contributions-limit"), `±${ends.toPrecision(2)}`);
  }
}
