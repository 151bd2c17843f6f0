// Pictures on canvases: arrays of uint8 RGB, and signed numbers in orange (above 0) and purple (below).

const DATA = new WeakMap(); // the ImageData of each canvas

// Make a canvas of h x w pixels that says in words what it shows.
export function canvasOf(label) {
  const canvas = document.createElement("canvas");
  canvas.className = "sharp";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

function imageData(canvas, height, width) {
  if (canvas.width !== width || canvas.height !== height || !DATA.has(canvas)) {
    canvas.width = width;
    canvas.height = height;
    DATA.set(canvas, new ImageData(width, height));
  }
  return DATA.get(canvas);
}

// Draw picture number k of an array (n, h, w, 3).
export function paint(canvas, array, k = 0) {
  const [height, width] = array.shape.slice(-3);
  const image = imageData(canvas, height, width);
  const {data} = image;
  const rgb = array.data;
  for (let to = 0, from = k * height * width * 3; to < data.length; to += 4, from += 3) {
    data[to] = rgb[from];
    data[to + 1] = rgb[from + 1];
    data[to + 2] = rgb[from + 2];
    data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Purple over white to orange, as in the report; no red and green, which are channels.
const STOPS = [[45, 0, 75], [128, 115, 172], [247, 247, 247], [224, 130, 20], [127, 59, 8]];
const SIGNED = Array.from({length: 256}, (_, k) => {
  const place = k / 255 * (STOPS.length - 1);
  const at = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[at].map((low, c) => low + (STOPS[at + 1][c] - low) * (place - at));
});

const CONSTANT = [187, 187, 187]; // pixels that never varied in training

function paintColours(canvas, height, width, colourOf) {
  const image = imageData(canvas, height, width);
  const {data} = image;
  for (let to = 0, at = 0; to < data.length; to += 4, at++) {
    const colour = colourOf(at);
    data[to] = colour[0];
    data[to + 1] = colour[1];
    data[to + 2] = colour[2];
    data[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Draw map number k of an array (n, h, w) of signed numbers; colours end at -limit and limit.
export function paintSigned(canvas, {data, shape}, k, limit) {
  const [height, width] = shape.slice(-2);
  const from = k * height * width;
  paintColours(canvas, height, width, at => SIGNED[Math.round((Math.max(-1, Math.min(1, data[from + at] / limit)) + 1) * 127.5)]);
}

// Draw class k of an array (n, c, h, w) of codes, 128 for 0 and 0 for constant pixels: the mean of its channels.
export function paintCodes(canvas, {data, shape: [, channels, height, width]}, k) {
  const size = height * width;
  paintColours(canvas, height, width, at => {
    let sum = 0, count = 0;
    for (let c = 0, from = k * channels * size + at; c < channels; c++, from += size) {
      if (data[from]) { sum += data[from]; count++; }
    }
    return count ? SIGNED[Math.round(sum / count)] : CONSTANT;
  });
}
