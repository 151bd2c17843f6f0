// The pictures of a layer and of rows, as live/frames.py makes them, and images as rows.

const MOST_BYTES = 2 ** 22, MOST_CHARTED = 24, STRONGEST = 10, BINS = 10, Z = 1.959963984540054;

// The share of n rows and the ends of its interval, by Wilson.
export function interval(share, n) {
  const middle = (share + Z ** 2 / (2 * n)) / (1 + Z ** 2 / n);
  const half = Z * Math.sqrt(share * (1 - share) / n + Z ** 2 / (4 * n ** 2)) / (1 + Z ** 2 / n);
  return [share, share === 0 ? 0 : middle - half, share === 1 ? 1 : middle + half];
}

// Numbers (n, c, h, w) as pictures (n, h, w, 3): each in its own range, or in the range that is given.
function pictures(numbers, n, [c, h, w], range) {
  const size = h * w, data = new Uint8Array(n * size * 3);
  for (let k = 0; k < n; k++) {
    let image = numbers.subarray(k * c * size, (k + 1) * c * size);
    if (c !== 3) image = Float32Array.from({length: size}, (_, at) => {
      let sum = 0;
      for (let channel = 0; channel < c; channel++) sum += image[channel * size + at];
      return sum / c;
    });
    let [low, high] = range ?? [Infinity, -Infinity];
    if (!range) for (const x of image) [low, high] = [x < low ? x : low, x > high ? x : high];
    for (let at = 0; at < size; at++) for (let channel = 0; channel < 3; channel++) {
      const x = image[(c === 3 ? channel * size : 0) + at];
      data[(k * size + at) * 3 + channel] = Math.round(high > low ? 255 * (x - low) / (high - low) : 128);
    }
  }
  return {data, shape: [n, h, w, 3]};
}

// Raw rows, one after the other, as pictures.
export function imagesOf(rows, shape) {
  let range = [0, 255];
  if (!(rows instanceof Uint8Array)) range = rows.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], [0, 1]);
  return pictures(rows, rows.length / shape[0] / shape[1] / shape[2], shape, range);
}

// The templates as pictures with the scale of their signs; of rows that are not images, the strongest weights.
export function templatesOf(training) {
  const {layer: {templates}, settings, standardizer: {scale, constant}, data: {shape, K, d}} = training;
  if (!shape) {
    const strongest = Array.from({length: Math.min(K, MOST_CHARTED)}, (_, k) => {
      const of = templates.subarray(k * d, (k + 1) * d), places = [...of.keys()].filter(j => !constant[j]);
      return places.sort((a, b) => Math.abs(of[b]) - Math.abs(of[a])).slice(0, STRONGEST).map(j => [j, of[j]]);
    });
    return [{strongest, largest: Math.max(...strongest.flat().map(([, w]) => Math.abs(w))) || 1}, {}];
  }
  const drawn = Math.max(1, Math.min(K, Math.floor(MOST_BYTES / (3 * shape[1] * shape[2]))));
  const arrays = {learnt: pictures(settings.init_std ? training.learnt : templates, drawn, shape)};
  if (settings.init_std) arrays.weights = pictures(templates, drawn, shape);
  const V = templates.slice(0, drawn * d).map((w, at) => w / scale[at % d]);
  const sizes = V.filter((_, at) => !constant[at % d]).map(Math.abs).sort(), m = sizes.length, largest = sizes[m - 1] || 0;
  const median = m ? (sizes[m - 1 >> 1] + sizes[m >> 1]) / 2 : 0;
  const limit = Number(((Math.min(3.5 * median, largest) || largest) || 1).toPrecision(2));
  const codes = Uint8Array.from(V, (v, at) => constant[at % d] ? 0 : Math.round(128 + 127 * Math.max(-1, Math.min(1, v / limit))));
  arrays.signed = {data: codes, shape: [drawn, ...shape]};
  const beyond = m ? 100 * sizes.filter(size => size > limit).length / m : 0;
  return [{signed: {limit, beyond}}, arrays];
}

// Confusion (K, K) and reliability (3, bins) of answers.
export function countsOf({labels, predictions, confidences}, K) {
  const confusion = new Int32Array(K * K), sums = new Float64Array(3 * BINS);
  labels.forEach((label, i) => {
    confusion[label * K + predictions[i]]++;
    const bin = Math.min(Math.floor(confidences[i] * BINS), BINS - 1);
    sums[bin]++;
    sums[BINS + bin] += confidences[i];
    sums[2 * BINS + bin] += Number(label === predictions[i]);
  });
  const reliability = Float32Array.from(sums, (sum, at) => at < BINS ? sum : sum / sums[at % BINS]);
  return {confusion: {data: confusion, shape: [K, K]}, reliability: {data: reliability, shape: [3, BINS]}};
}

// A file or pixels as a row (c, h, w) of bytes: cut to the shape, squeezed, or with white added.
export async function rowOf({file, pixels}, [c, h, w], fit) {
  if (c !== 1 && c !== 3) throw new TypeError(`images of ${c} channels cannot be made of a picture`);
  const source = file ? new Blob([file.data]) : new ImageData(new Uint8ClampedArray(pixels.data), pixels.shape[1], pixels.shape[0]);
  const bitmap = await createImageBitmap(source).catch(() => { throw new TypeError("the image cannot be read; pass a PNG, JPEG, GIF, WebP or BMP file"); });
  const [wide, high] = [w / bitmap.width, h / bitmap.height];
  const by = fit === "crop" ? [Math.max(wide, high), Math.max(wide, high)] : fit === "pad" ? [Math.min(wide, high), Math.min(wide, high)] : [wide, high];
  const [to, down] = [bitmap.width * by[0], bitmap.height * by[1]], context = new OffscreenCanvas(w, h).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, w, h);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (w - to) / 2, (h - down) / 2, to, down);
  bitmap.close();
  const {data} = context.getImageData(0, 0, w, h), row = new Uint8Array(c * h * w);
  for (let at = 0; at < h * w; at++) {
    const colours = data.subarray(4 * at, 4 * at + 3);
    if (c === 1) row[at] = Math.round(0.299 * colours[0] + 0.587 * colours[1] + 0.114 * colours[2]);
    else for (let channel = 0; channel < 3; channel++) row[channel * h * w + at] = colours[channel];
  }
  return row;
}
