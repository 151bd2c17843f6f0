// Binary frames: 4 bytes length of a JSON header, the header, then arrays, each padded to a multiple of 8 bytes.

const TYPES = {uint8: Uint8Array, int32: Int32Array, float32: Float32Array};
const padded = length => Math.ceil(length / 8) * 8;

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  let offset = padded(4 + length);
  for (const {name, dtype, shape} of message.arrays) {
    const count = shape.reduce((product, size) => product * size, 1);
    const data = new TYPES[dtype](buffer, offset, count);
    arrays[name] = {data, shape};
    offset += padded(data.byteLength);
  }
  return {message, arrays};
}

// Arrays are {name: {data, shape}} with typed arrays of the types above.
export function pack(message, arrays) {
  const listed = Object.entries(arrays).map(([name, {data, shape}]) => {
    const dtype = Object.keys(TYPES).find(key => data instanceof TYPES[key]);
    return {name, dtype, shape: shape ?? [data.length]};
  });
  let header = new TextEncoder().encode(JSON.stringify({...message, arrays: listed}));
  const begin = padded(4 + header.length);
  const datas = Object.values(arrays).map(({data}) => data);
  const total = datas.reduce((sum, data) => sum + padded(data.byteLength), begin);
  const bytes = new Uint8Array(total);
  new DataView(bytes.buffer).setUint32(0, begin - 4, true);
  bytes.fill(32, 4, begin); // spaces
  bytes.set(header, 4);
  let offset = begin;
  for (const data of datas) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
    offset += padded(data.byteLength);
  }
  return bytes.buffer;
}
