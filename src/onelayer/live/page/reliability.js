// Reliability: how often the layer is right where it is this sure; and the switch before the test rows.

import {axes, colours, line, prepare} from "./chart.js";
import {$, counted, dark, el, nats, percent, write} from "./dom.js";

export class Reliability {
  #bins = null;

  constructor() {
    const again = () => this.#paint();
    new ResizeObserver(again).observe($("reliability-chart"));
    dark.addEventListener("change", again);
  }

  // An array (3, bins): numbers of rows, mean confidences, accuracies.
  draw(array) {
    this.#bins = array;
    this.#paint();
    const bins = this.#filled();
    const rows = bins.reduce((sum, [, , n]) => sum + n, 0);
    const apart = bins.reduce((sum, [confidence, accuracy, n]) => sum + n * Math.abs(confidence - accuracy), 0);
    const words = rows ? `Confidence and accuracy are ${(100 * apart / rows).toFixed(1)} points apart on average.` : "";
    write($("reliability-words"), words);
  }

  // Put the numbers into the table; not in every frame.
  settle() {
    if (!this.#bins) return;
    $("reliability-table").replaceChildren(...this.#filled().map(([confidence, accuracy, n]) => el("tr", {}, ...[percent(confidence), percent(accuracy), String(n)].map(text => el("td", {}, text)))));
  }

  #filled() {
    const {data, shape: [, bins]} = this.#bins;
    return Array.from({length: bins}, (_, k) => [data[bins + k], data[2 * bins + k], data[k]]).filter(([, , n]) => n > 0);
  }

  #paint() {
    if (!this.#bins) return;
    const paper = prepare($("reliability-chart"));
    if (!paper.width) return;
    const colour = colours();
    const place = axes(paper, {x: [0, 1], y: [0, 1], xLabel: "confidence", yLabel: "accuracy"}, colour);
    const {context} = paper;
    line(context, place, [[0, 0], [1, 1]], {colour: colour("quiet"), dash: [2, 3], wide: 1.2});
    const bins = this.#filled();
    const most = Math.max(...bins.map(([, , n]) => n), 1);
    line(context, place, bins.map(([confidence, accuracy]) => [confidence, accuracy]), {colour: colour("train")});
    for (const [confidence, accuracy, n] of bins) {
      context.beginPath();
      context.arc(place.x(confidence), place.y(accuracy), 2 + 6 * Math.sqrt(n / most), 0, 7);
      context.fill();
    }
  }
}

export class TestRows {
  since = "since the server began";

  constructor(send) {
    $("open-test").addEventListener("click", () => send({type: "open-test"}));
  }

  show({accuracy: [accuracy, low, high], loss, rows, epoch, times_read: times, of_train: wrong}) {
    const of = ` of ${counted(rows, wrong ? "training row" : "test row")} are classified rightly after epoch ${epoch} (95 % interval ${percent(low)} to ${percent(high)}); loss ${nats(loss)} nats. `;
    const read = wrong ? "The layer has learnt these rows by heart in part: this is the mistake." : `The test rows were read ${counted(times, "time")} ${this.since}.`;
    $("test-result").replaceChildren(el("b", {}, percent(accuracy)), of, read);
    write($("open-test"), "Read the test rows again");
  }

  clear() {
    $("test-result").replaceChildren();
  }
}
