// Classes and images that are made on the page, in the memory of the worker.

import {rowOf} from "./worker-pictures.js";
import {Data} from "./worker-training.js";

const SHAPE = [3, 32, 32], FIT = "crop", HELD_OUT = 5; // each fifth image of a class is a validation row

export class Taught {
  #classes = new Map(); // name: Map of id to row
  #data = null;

  constructor(limits) {
    this.limits = limits;
  }

  describe() {
    const classes = [...this.#classes].map(([name, images]) => ({name, count: images.size}));
    const ids = [...this.#classes.values()].flatMap(images => [...images.keys()]);
    return {type: "taught", path: "the memory of this page", classes, next_id: Math.max(-1, ...ids) + 1};
  }

  async change({op, class: name, name: other, id}, arrays) {
    const images = this.#classes.get(name);
    if (op === "add-class") this.#classes.set(this.#free(name), new Map());
    else if (!images) throw new RangeError(`there is no class ${name}; add it first`);
    else if (op === "rename-class") {
      if (other !== name) this.#free(other, name);
      this.#classes = new Map([...this.#classes].map(([key, value]) => [key === name ? other : key, value]));
    } else if (op === "remove-class") this.#classes.delete(name);
    else if (op === "remove-image") {
      if (!images.delete(id)) throw new RangeError(`there is no image ${id} in this class`);
    } else if (op === "add-image") {
      if (this.describe().classes.reduce((sum, {count}) => sum + count, 0) >= this.limits.most_images) throw new RangeError(`at most ${this.limits.most_images} images are taught here`);
      images.set(id, await rowOf(arrays, SHAPE, FIT));
    } else throw new RangeError(`teach: there is no op ${op}`);
    this.#data = null;
    return op === "add-image" ? {type: "taught", op, class: name, id, count: images.size} : {...this.describe(), op, class: name, id};
  }

  #free(name, own) {
    const others = [...this.#classes.keys()].filter(key => key !== own).map(key => key.toLowerCase());
    if (typeof name !== "string" || !name.trim() || name.length > this.limits.most_name) throw new RangeError(`a class has a name of 1 to ${this.limits.most_name} letters`);
    if (others.includes(name.toLowerCase())) throw new RangeError(`there is a class ${name} already; choose another name`);
    if (others.length >= this.limits.most_classes) throw new RangeError(`there are ${others.length} classes already, which is the most`);
    return name;
  }

  // The classes that have images as a data set.
  data() {
    const classes = [...this.#classes].filter(([, images]) => images.size).map(([name, images]) => [name, [...images.values()]]);
    if (classes.length < 2) throw new RangeError("a classifier needs two classes with images; add some, then train");
    if (this.#data) return this.#data;
    const parts = {train: [], validation: []};
    classes.forEach(([, images], label) => images.forEach((row, at) => parts[at % HELD_OUT === HELD_OUT - 1 ? "validation" : "train"].push([row, label])));
    const all = [...parts.train, ...parts.validation], d = all[0][0].length, rows = new Uint8Array(all.length * d);
    all.forEach(([row], at) => rows.set(row, at * d));
    const about = {
      name: "taught", title: "taught here", source: "taught", classes: classes.map(([name]) => name), image_shape: SHAPE, numbers: d, fit: FIT,
      sizes: {train: parts.train.length, validation: parts.validation.length, test: 0}, protocol: "each fifth image validates", fingerprint: `taught ${Date.now()}`, notes: [], complete: true
    };
    return this.#data = new Data(about, rows, Int32Array.from(all, ([, label]) => label));
  }
}
