// A canvas to draw on with mouse, finger, pen or keys.

export class Sketch {
  onchange = () => {};
  #canvas;
  #context;
  #at = null; // the place of the pen, in pixels of the canvas
  #down = false; // the pen of the keys

  constructor(canvas, cursor, {ink, paper, width}) {
    this.#canvas = canvas;
    this.cursor = cursor;
    this.controls = {ink, paper, width};
    this.#context = canvas.getContext("2d", {willReadFrequently: true});
    this.#context.lineCap = this.#context.lineJoin = "round";
    this.clear();
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      this.#at = this.#place(event);
      this.#to(this.#at);
    });
    canvas.addEventListener("pointermove", event => { if (event.buttons && this.#at) this.#to(this.#place(event)); });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { this.#at = null; });
    canvas.addEventListener("keydown", event => this.#key(event));
    canvas.addEventListener("blur", () => { cursor.hidden = true; });
    paper.addEventListener("input", () => this.clear());
  }

  clear() {
    this.#context.fillStyle = this.controls.paper.value;
    this.#context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.onchange();
  }

  get pixels() {
    const {width, height} = this.#canvas;
    const {data} = this.#context.getImageData(0, 0, width, height);
    return {data: new Uint8Array(data.buffer), shape: [height, width, 4]};
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * this.#canvas.width, (event.clientY - box.top) / box.height * this.#canvas.height];
  }

  #to(place) {
    const context = this.#context;
    context.strokeStyle = this.controls.ink.value;
    context.lineWidth = Number(this.controls.width.value);
    context.beginPath();
    context.moveTo(...this.#at);
    context.lineTo(...place);
    context.stroke();
    this.#at = place;
    this.onchange();
  }

  // Arrows move the pen, Space sets it down or lifts it.
  #key(event) {
    const {width, height} = this.#canvas;
    const step = {ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0]}[event.key];
    this.#at ??= [width / 2, height / 2];
    if (event.key === " ") {
      this.#down = !this.#down;
      if (this.#down) this.#to(this.#at);
    } else if (step) {
      const place = [[this.#at[0], step[0], width], [this.#at[1], step[1], height]].map(([v, s, most]) => Math.max(0, Math.min(most, v + 8 * s)));
      if (this.#down) this.#to(place);
      else this.#at = place;
    } else return;
    event.preventDefault();
    this.cursor.hidden = false;
    this.cursor.style.left = `${100 * this.#at[0] / width}%`;
    this.cursor.style.top = `${100 * this.#at[1] / height}%`;
    this.cursor.classList.toggle("down", this.#down);
  }
}
