// Teach it yourself: classes with images from files, folders or the camera, kept on the page and sent to the engine.

import {closeCamera, openCamera, squareOf, whyNot} from "./camera.js";
import {classesOfFiles, isImage} from "./drop.js";
import {$, counted, el, write} from "./dom.js";

const SHOWN = 40; // small pictures of a class
const MOST_SENT = 8; // images that wait for an answer
const HELD_EVERY = 200; // milliseconds between pictures while the button is held

export class Teach {
  ontrain = () => {};
  onresent = () => {}; // an engine that was started anew has all again
  #classes = []; // {name, images: [{id, file or pixels}], held, card, thumbs, count}; held is the engine's count, which includes images of other pages
  #next = Date.now(); // numbers of images that no other page takes
  #limits = {};
  #timer = 0;
  #path = "";
  #sent = new Set(); // images that wait for an answer

  constructor(engine) {
    this.engine = engine;
    $("add-class").addEventListener("submit", event => {
      event.preventDefault();
      const name = $("class-name").value.trim();
      if (!name) return;
      const made = this.#add(name);
      $("class-name").value = "";
      made?.card.querySelector("input[type=file]").focus();
    });
    $("pick-folder").addEventListener("change", () => {
      this.addAll(classesOfFiles($("pick-folder").files));
      $("pick-folder").value = "";
    });
    $("train-taught").addEventListener("click", () => this.ontrain());
    $("take").addEventListener("pointerdown", () => { this.#timer = setInterval(() => this.#take(), HELD_EVERY); });
    for (const kind of ["pointerup", "pointerleave", "pointercancel"]) $("take").addEventListener(kind, () => clearInterval(this.#timer));
    $("take").addEventListener("click", () => this.#take());
    $("stop-camera").addEventListener("click", () => this.#film(null));
  }

  limits(limits) {
    Object.assign(this.#limits, limits);
  }

  // The engine says what it holds; return whether it can train on that.
  taught({op, class: of, id, count, classes, path}) {
    this.#sent.delete(id);
    if (!op) this.#sent.clear(); // a new connection
    if (op === "add-image") classes = [{name: of, count}];
    else this.#path = path;
    const renamed = op === "rename-class" && this.#find(of);
    if (renamed) {
      renamed.name = renamed.wanted;
      renamed.card.setAttribute("aria-label", `Class ${renamed.name}`);
    }
    for (const {name, count} of classes) {
      const known = this.#find(name) ?? this.#make(name);
      known.held = count;
      write(known.count, counted(count, "image"));
    }
    if (!op) this.#again(classes);
    const images = this.#classes.reduce((sum, {held}) => sum + held, 0);
    const ready = this.#classes.filter(({held}) => held).length >= 2;
    $("train-taught").disabled = !ready;
    write($("taught-words"), ready ? `${counted(this.#classes.length, "class", "classes")} with ${counted(images, "image")}, in ${this.#path}` : "Two classes with images are needed.");
    return ready;
  }

  failed(message, id) {
    this.#sent.delete(id);
    for (const known of this.#classes) {
      known.images = known.images.filter(image => image.id !== id);
      known.field.value = known.name;
    }
    if (!id) this.#classes.filter(({held}) => held === null).forEach(known => this.#drop(known)); // their names were refused
    $(`thumb-${id}`)?.remove();
    write($("taught-words"), message);
  }

  // Send classes again to an engine that was started anew and does not hold them.
  async #again(held) {
    const names = new Set(held.map(({name}) => name));
    const lost = this.#classes.filter(({name}) => !names.has(name));
    lost.filter(({images}) => !images.length).forEach(known => this.#drop(known)); // another page's
    for (const known of lost.filter(({images}) => images.length)) {
      this.#send("add-class", known);
      for (const image of known.images) await this.#sendImage(known, image);
    }
    await this.#answered();
    this.onresent();
  }

  // Wait until no more than these many images wait for an answer.
  async #answered(most = 0) {
    while (this.engine.busy || this.#sent.size > most) await new Promise(resolve => setTimeout(resolve, 20));
  }

  #find(name) {
    return this.#classes.find(known => known.name.toLowerCase() === name.toLowerCase());
  }

  // Add {class name: files} to the classes of these names, old or new, and train.
  async addAll(classes) {
    $("teach").open = true;
    for (const [name, files] of Object.entries(classes)) {
      await this.#addFiles(this.#find(name) ?? this.#add(name), files);
    }
    await this.#answered();
    if (!$("train-taught").disabled) this.ontrain();
  }

  // Files that were dropped on the card of a class; false if they were dropped elsewhere.
  dropped(files, target) {
    const known = this.#classes.find(({card}) => card.contains(target));
    if (known) this.#addFiles(known, files.filter(isImage));
    return Boolean(known);
  }

  #send(op, known, more = {}, arrays = null) {
    this.engine.send({type: "teach", op, class: known.name, ...more}, arrays);
  }

  #add(name) {
    if (this.#find(name)) return void write($("taught-words"), `There is a class ${name} already.`);
    const known = this.#make(name);
    this.#send("add-class", known);
    return known;
  }

  #make(name) {
    const known = {name, images: [], held: null};
    this.#classes.push(known);
    this.#makeCard(known);
    return known;
  }

  #makeCard(known) {
    const name = known.field = el("input", {type: "text", value: known.name, maxLength: 60, "aria-label": "Name of the class"});
    name.addEventListener("change", () => {
      const now = name.value.trim();
      if (!now || this.#find(now) && this.#find(now) !== known) {
        name.value = known.name;
        return;
      }
      known.wanted = now;
      this.#send("rename-class", known, {name: now});
    });
    const pick = el("input", {type: "file", accept: "image/*", multiple: true, className: "unseen", id: `files-${this.#next++}`});
    pick.addEventListener("change", () => { this.#addFiles(known, [...pick.files]); });
    const film = el("button", {type: "button", className: "small"}, "Camera");
    film.addEventListener("click", () => this.#film(known));
    const remove = el("button", {type: "button", className: "small", "aria-label": `Remove ${known.name}`}, "Remove");
    remove.addEventListener("click", () => {
      this.#drop(known);
      this.#send("remove-class", known);
      $("class-name").focus();
    });
    known.count = el("span", {className: "quiet"}, "no images");
    known.thumbs = el("div", {className: "thumbs"});
    known.card = el("div", {className: "card", role: "group", "aria-label": `Class ${known.name}`}, el("div", {className: "titled"}, name, known.count),
      el("div", {className: "buttons"}, pick, el("label", {for: pick.id, className: "button small"}, "Images"), film, remove), known.thumbs);
    $("taught-classes").append(known.card);
  }

  #drop(known) {
    if (this.filming === known) this.#film(null);
    this.#classes.splice(this.#classes.indexOf(known), 1);
    known.card.remove();
  }

  async #addFiles(known, files) {
    for (const file of files) {
      if (file.size > this.#limits.most_bytes - 4096) write($("taught-words"), `${file.name} is too large and was left out.`);
      else await this.#addImage(known, {file});
    }
  }

  async #addImage(known, source) {
    const image = {id: this.#next++, ...source};
    known.images.push(image);
    await this.#sendImage(known, image);
    if (known.thumbs.childElementCount < SHOWN) await this.#thumb(known, image);
  }

  async #sendImage(known, image) {
    await this.#answered(MOST_SENT);
    this.#sent.add(image.id);
    const {file, pixels} = image;
    const arrays = file ? {file: {data: new Uint8Array(await file.arrayBuffer())}} : {pixels: {data: pixels.data.slice(), shape: pixels.shape}};
    this.#send("add-image", known, {id: image.id}, arrays);
  }

  // A small picture that removes its image when it is pressed.
  async #thumb(known, image) {
    const canvas = el("canvas", {width: 48, height: 48});
    const button = el("button", {type: "button", className: "thumb", id: `thumb-${image.id}`, "aria-label": `Remove image ${known.images.length} of ${known.name}`}, canvas);
    button.addEventListener("click", () => {
      known.images.splice(known.images.indexOf(image), 1);
      button.remove();
      this.#send("remove-image", known, {id: image.id});
    });
    known.thumbs.append(button);
    const {file, pixels} = image;
    try {
      const bitmap = await createImageBitmap(file ?? new ImageData(new Uint8ClampedArray(pixels.data), pixels.shape[1], pixels.shape[0]));
      canvas.getContext("2d").drawImage(bitmap, 0, 0, 48, 48);
      bitmap.close();
    } catch { // a form that the server reads and the browser does not
      button.append("?");
    }
  }

  async #film(known) {
    clearInterval(this.#timer);
    this.filming = known;
    $("teach-camera").hidden = !known;
    if (!known) return closeCamera($("teach-video"));
    known.card.append($("teach-camera"));
    write($("take"), `Take a picture of ${known.name}`);
    try {
      await openCamera($("teach-video"));
      $("take").focus();
    } catch (error) {
      this.#film(null);
      write($("taught-words"), whyNot(error));
    }
  }

  #take() {
    if (this.filming && $("teach-video").videoWidth) this.#addImage(this.filming, {pixels: squareOf($("teach-video"))});
  }
}
