// A layer as a model file of onelayer, in the form of safetensors: `onelayer.Model.load` reads it.

export async function modelFile({layer: {templates, bias}, settings: {loss}, standardizer: {mean, scale}, data: {about, shape, rows, K, d}}) {
  const weights = Float32Array.from({length: d * K}, (_, at) => templates[at % K * d + Math.floor(at / K)]); // (d, K)
  const tensors = {mean: [mean, [d]], scale: [scale, [d]], weights: [weights, [d, K]], bias: [bias, [K]]};
  const metadata = {
    format: "onelayer-model", version: "1", loss, class_names: JSON.stringify(about.classes), image_shape: JSON.stringify(shape),
    pixels: String(rows instanceof Uint8Array), fit: about.fit, constant_weights: "0"
  };
  const header = {__metadata__: metadata};
  let end = 0;
  for (const [name, [array, shape]] of Object.entries(tensors)) {
    header[name] = {dtype: array instanceof Float64Array ? "F64" : "F32", shape, data_offsets: [end, end += array.byteLength]};
  }
  const text = new TextEncoder().encode(JSON.stringify(header)), begin = 8 + Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(begin + end);
  new DataView(file.buffer).setUint32(0, begin - 8, true);
  file.fill(32, 8, begin);
  file.set(text, 8);
  for (const [name, [array]] of Object.entries(tensors)) file.set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), begin + header[name].data_offsets[0]);
  return file;
}
