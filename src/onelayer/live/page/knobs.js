// The knobs: sliders, fields and choices for each setting that the engine names, and switches for common mistakes.

import {$, atMost, el, write} from "./dom.js";
import {FIRST, KNOBS, MISTAKES, choice} from "./words.js";

const MOST_STEPS = 1e5; // of a slider without logarithm; a field is there for more
const DRAGGED_EVERY = 200; // milliseconds between trainings while a slider is dragged

// The values that a slider has: auto, zero, then round numbers from the least to the most.
export function positions({least, most, logarithmic, auto, zero, whole}) {
  const values = [...auto ? ["auto"] : [], ...zero || !least ? [0] : []];
  if (!logarithmic && !whole) {
    for (let k = 0; k <= 100; k++) values.push(Number((least + k * (most - least) / 100).toPrecision(6)));
    return [...new Set(values)];
  }
  for (let power = Math.floor(Math.log10(least || 1)); power <= Math.log10(most); power++) {
    for (const digit of [1, 1.5, 2, 3, 5, 7]) {
      const value = Number(`${digit}e${power}`);
      if (value >= least && value <= most && (!whole || Number.isInteger(value))) values.push(value);
    }
  }
  return values;
}

// The place of the value nearest to this one.
function nearest(values, value) {
  const same = values.indexOf(value);
  if (same >= 0) return same;
  const far = other => typeof other === "number" && other > 0 ? Math.abs(Math.log(other / value)) : Infinity;
  return values.reduce((best, other, k) => far(other) < far(values[best]) ? k : best, 0);
}

export class Knobs {
  onchange = () => {};
  #knobs = [];
  #controls = {}; // by name: {value(), set(value), row, disable(bool)}
  #said = "";
  #images = true; // the rows are images

  constructor() {
    $("data").addEventListener("change", () => this.#turned());
    $("reset").addEventListener("click", () => {
      for (const knob of this.#knobs) this.#controls[knob.name].set(knob.default);
      for (const input of document.querySelectorAll("#mistakes input")) input.checked = false;
      this.#turned();
    });
  }

  #dragged = atMost(DRAGGED_EVERY, () => this.#turned());

  // Make the knobs that the engine names; those that stand keep their values.
  welcome({knobs, data}) {
    this.data(data);
    if (this.#knobs.length) return;
    this.#knobs = knobs;
    for (const knob of knobs) {
      const control = knob.choices.length ? knob.choices.includes(true) ? this.#switch(knob) : this.#select(knob) : this.#slider(knob);
      this.#controls[knob.name] = control;
      $(FIRST.includes(knob.name) ? "first-knobs" : "more-knobs").append(control.row);
    }
    for (const name of FIRST) if (this.#controls[name]) $("first-knobs").append(this.#controls[name].row);
    $("mistakes").replaceChildren(...Object.entries(MISTAKES).map(([name, [label, why]]) => {
      const input = el("input", {type: "checkbox", role: "switch", value: name, "aria-describedby": `why-${name}`});
      input.addEventListener("change", () => this.#turned());
      return el("div", {className: "knob"}, el("label", {}, input, el("span", {}, label)), el("small", {id: `why-${name}`}, why));
    }));
    this.#close();
  }

  // The data sets to choose from.
  data(sets) {
    const before = $("data").value;
    const words = {digits: "Digits of scikit-learn", taught: "Taught below"};
    $("data").replaceChildren(...sets.map(({name, title}) => el("option", {value: name, disabled: name === "taught"}, words[name] ?? title)));
    if (before) $("data").value = before;
  }

  // Taught classes can be trained on, or not yet.
  taught(ready) {
    const option = $("data").querySelector("[value=taught]");
    if (option) option.disabled = !ready;
  }

  take(name) {
    $("data").value = name;
    this.#said = "";
    this.#turned();
  }

  // Images have features and flips; other rows have the numbers that they are.
  images(yes) {
    this.#images = yes;
    const pixels = $("knob-features")?.querySelector("[value=none]");
    if (pixels) pixels.textContent = yes ? choice("features", "none") : "the numbers of the rows";
    this.#close();
  }

  get knobs() {
    return this.#knobs;
  }

  // The settings that the solver has, and the mistakes that are on.
  get values() {
    const open = this.#knobs.filter(({name}) => !this.#controls[name].row.hidden && !this.#controls[name].row.classList.contains("off"));
    const settings = Object.fromEntries(open.map(({name}) => [name, this.#controls[name].value()]));
    const mistakes = [...document.querySelectorAll("#mistakes input:checked")].map(input => input.value);
    return {data: $("data").value, settings, mistakes};
  }

  #turned() {
    this.#close();
    const said = JSON.stringify(this.values);
    if (said === this.#said) return;
    this.#said = said;
    this.onchange(this.values);
  }

  // Close the knobs that the solver or the features do not have.
  #close() {
    const solver = this.#controls.solver?.value();
    const pixels = (this.#controls.features?.value() ?? "none") === "none";
    for (const {name, solver: of} of this.#knobs) {
      const control = this.#controls[name];
      control.row.hidden = Boolean(of && of !== solver);
      if (name === "flip" || name === "features") {
        const off = !this.#images || name === "flip" && !pixels;
        control.row.classList.toggle("off", off);
        control.disable(off);
      }
    }
  }

  #row(name, kind, ...parts) {
    const [label, help] = KNOBS[name] ?? [name.replaceAll("_", " "), ""];
    const row = el("div", {className: `knob ${kind}`}, ...parts);
    row.append(el("small", {id: `help-${name}`}, help));
    return {row, label};
  }

  #select(knob) {
    const {name} = knob;
    const select = el("select", {id: `knob-${name}`, "aria-describedby": `help-${name}`}, ...knob.choices.map(value => el("option", {value}, choice(name, value))));
    select.value = knob.default;
    select.addEventListener("change", () => this.#turned());
    const {row, label} = this.#row(name, "select");
    row.prepend(el("label", {for: select.id}, label), select);
    return {row, value: () => select.value, set: value => { select.value = value; }, disable: off => { select.disabled = off; }};
  }

  #switch(knob) {
    const input = el("input", {type: "checkbox", role: "switch", id: `knob-${knob.name}`, checked: knob.default, "aria-describedby": `help-${knob.name}`});
    input.addEventListener("change", () => this.#turned());
    const {row, label} = this.#row(knob.name, "switch");
    row.prepend(el("label", {}, input, el("span", {}, label)));
    return {row, value: () => input.checked, set: value => { input.checked = value; }, disable: off => { input.disabled = off; }};
  }

  #slider(knob) {
    const {name} = knob;
    const drawn = !knob.logarithmic && knob.most > MOST_STEPS; // a seed, which has no order
    const values = drawn ? [] : positions(knob);
    let value = knob.default;
    const range = el("input", {type: "range", min: 0, max: values.length - 1, step: 1, id: `knob-${name}`, "aria-describedby": `help-${name}`});
    const typed = el("input", {type: "text", inputMode: "decimal", size: 7, autocomplete: "off", spellcheck: false, id: `typed-${name}`});
    const wrong = el("small", {className: "wrong", role: "alert"});
    const {row, label} = this.#row(name, "slider");
    typed.setAttribute("aria-label", `${label}, typed`);
    const another = el("button", {type: "button", className: "small"}, "Another");
    another.addEventListener("click", () => { set(1 + Math.floor(Math.random() * 9999)); this.#turned(); });
    row.prepend(el("label", {for: (drawn ? typed : range).id}, label), typed, drawn ? another : range, wrong);
    const set = other => {
      value = other;
      range.value = nearest(values, value);
      typed.value = String(value);
      range.setAttribute("aria-valuetext", String(value));
      typed.removeAttribute("aria-invalid");
      write(wrong, "");
    };
    range.addEventListener("input", () => { set(values[range.value]); this.#dragged(); });
    range.addEventListener("change", () => this.#turned());
    typed.addEventListener("change", () => {
      const words = typed.value.trim().toLowerCase();
      const number = words === "auto" && knob.auto ? "auto" : Number(words.replace(",", ".") || NaN);
      const good = number === "auto" || number === 0 && knob.zero || number >= knob.least && number <= knob.most && (!knob.whole || Number.isInteger(number));
      if (good) {
        set(number);
        return this.#turned();
      }
      typed.setAttribute("aria-invalid", "true");
      const whole = knob.whole ? "a whole number" : "a number";
      write(wrong, `Take ${whole} from ${knob.least} to ${knob.most}${knob.zero ? ", 0" : ""}${knob.auto ? ", or auto" : ""}.`);
    });
    set(value);
    return {row, value: () => value, set, disable: off => { range.disabled = typed.disabled = off; }};
  }
}
