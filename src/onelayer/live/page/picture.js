// Your image: dropped, pasted, picked, drawn, or from the camera; sent to the engine, which answers while it learns.

import {closeCamera, openCamera, squareOf, whyNot} from "./camera.js";
import {$, atMost, write} from "./dom.js";
import {Sketch} from "./sketch.js";

const CAMERA_EVERY = 150; // milliseconds

export class Picture {
  #id = 0;
  #last = null; // the arrays that were sent last, for a new connection
  #timer = 0;
  #most = 8e6;

  constructor(engine) {
    this.engine = engine;
    $("pick").addEventListener("change", () => {
      if ($("pick").files[0]) this.file($("pick").files[0]);
      $("pick").value = "";
    });
    document.addEventListener("paste", event => {
      const file = [...event.clipboardData.files].find(item => item.type.startsWith("image/"));
      if (file) this.file(file);
    });
    const sketch = new Sketch($("sketch"), $("pen"), {ink: $("ink"), paper: $("paper"), width: $("pen-width")});
    sketch.onchange = atMost(120, () => { if (!$("drawing").hidden) this.#send({pixels: sketch.pixels}); });
    $("clear-sketch").addEventListener("click", () => sketch.clear());
    $("draw").addEventListener("click", () => this.#toggle("drawing"));
    $("camera").addEventListener("click", () => this.#toggle("filming"));
    $("freeze").addEventListener("click", () => this.#toggle("filming"));
    $("forget-image").addEventListener("click", () => this.forget());
  }

  limits({most_bytes: most}) {
    this.#most = most - 4096; // of the header
  }

  async file(file) {
    this.#show(null);
    if (file.size > this.#most) return write($("picture-words"), `${file.name} has ${(file.size / 1e6).toFixed(1)} MB; at most ${(this.#most / 1e6).toFixed(1)} MB are taken.`);
    this.#send({file: {data: new Uint8Array(await file.arrayBuffer())}});
  }

  // Send the image once more, to an engine that does not know it.
  again() {
    if (this.#last) this.#send(this.#last);
  }

  forget() {
    this.#show(null);
    this.#last = null;
    this.onforget?.();
  }

  failed(message) {
    write($("picture-words"), message);
  }

  is(id) {
    return this.#last !== null && id === this.#id;
  }

  #send(arrays) {
    if (this.engine.busy) return;
    write($("picture-words"), "");
    this.#last = arrays;
    const sent = Object.fromEntries(Object.entries(arrays).map(([name, {data, shape}]) => [name, {data: data.slice(), shape}]));
    this.engine.send({type: "image", id: ++this.#id}, sent);
  }

  #toggle(what) {
    this.#show($(what).hidden ? what : null);
  }

  // Open the drawing or the camera, or close both.
  async #show(what) {
    clearInterval(this.#timer);
    for (const [part, button] of [["drawing", "draw"], ["filming", "camera"]]) {
      $(part).hidden = part !== what;
      $(button).setAttribute("aria-expanded", String(part === what));
    }
    if (what !== "filming") return closeCamera($("video"));
    try {
      await openCamera($("video"));
      this.#timer = setInterval(() => { if (!document.hidden && $("video").videoWidth) this.#send({pixels: squareOf($("video"))}); }, CAMERA_EVERY);
    } catch (error) {
      this.#show(null);
      write($("picture-words"), whyNot(error));
    }
  }
}
