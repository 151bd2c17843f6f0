// NumPy's random numbers: numpy.random.default_rng(seed) draws the same permutations and uniform numbers bit for bit,
// and normal numbers to the last digits, in which logarithms of browsers may differ.

const WORD = 2n ** 64n - 1n;
const MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;
const state128 = number => BigInt.asUintN(128, number);

// NumPy's SeedSequence: words of 32 bits, well mixed from a whole number.
function seedWords(seed, count) {
  let constant = 0x43b0d7e5;
  const mixed = (word, factor) => {
    word ^= constant;
    constant = Math.imul(constant, factor);
    word = Math.imul(word, constant);
    return word ^ word >>> 16;
  };
  const joined = (a, b) => {
    const word = Math.imul(0xca01f9dd, a) - Math.imul(0x4973f715, b) | 0;
    return word ^ word >>> 16;
  };
  const entropy = [];
  for (let rest = BigInt(seed); rest || !entropy.length; rest >>= 32n) entropy.push(Number(rest & 0xffffffffn));
  const pool = [0, 1, 2, 3].map(k => mixed(entropy[k] ?? 0, 0x931e8875));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = joined(pool[to], mixed(pool[from], 0x931e8875));
  }
  for (const word of entropy.slice(4)) {
    for (let to = 0; to < 4; to++) pool[to] = joined(pool[to], mixed(word, 0x931e8875));
  }
  constant = 0x8b51f9dd;
  return Array.from({length: count}, (_, k) => BigInt(mixed(pool[k % 4], 0x58f38ded) >>> 0));
}

// The ziggurat of Marsaglia and Tsang, 256 layers of the same area under exp(-x^2 / 2).
const TAIL = 3.6541528853610088, AREA = 0.004928673233974656;
const EDGES = new Float64Array(257), HEIGHTS = new Float64Array(257); // of layer k: from EDGES[k - 1] to EDGES[k]
HEIGHTS[255] = Math.exp(-0.5 * TAIL * TAIL);
EDGES[255] = TAIL;
for (let k = 254; k > 0; k--) {
  EDGES[k] = Math.sqrt(-2 * Math.log(AREA / EDGES[k + 1] + HEIGHTS[k + 1]));
  HEIGHTS[k] = Math.exp(-0.5 * EDGES[k] * EDGES[k]);
}
HEIGHTS[0] = 1;
const WIDTHS = EDGES.map((edge, k) => (k ? edge : AREA / HEIGHTS[255]) / 2 ** 52);
const INSIDE = EDGES.map((_, k) => Math.floor(k ? EDGES[k - 1] / EDGES[k] * 2 ** 52 : TAIL / WIDTHS[0]));

export class Random {
  #state;
  #increment;
  #half = null; // 32 bits that are left of a word

  constructor(seed) {
    const words = seedWords(seed, 8);
    const [a, b, c, d] = [0, 2, 4, 6].map(k => words[k] | words[k + 1] << 32n);
    this.#increment = state128((c << 64n | d) << 1n | 1n);
    this.#state = state128((this.#increment + (a << 64n | b)) * MULTIPLIER + this.#increment);
  }

  #word() {
    const state = this.#state = state128(this.#state * MULTIPLIER + this.#increment);
    const mixed = (state >> 64n ^ state) & WORD, by = state >> 122n;
    return (mixed >> by | mixed << (64n - by)) & WORD;
  }

  #word32() {
    if (this.#half !== null) {
      const half = this.#half;
      this.#half = null;
      return half;
    }
    const word = this.#word();
    this.#half = Number(word >> 32n);
    return Number(word & 0xffffffffn);
  }

  // A whole number from 0 to most: words with as many digits, until one is not too large.
  #below(most) {
    const shift = Math.clz32(most);
    for (;;) {
      const number = this.#word32() << shift >>> shift;
      if (number <= most) return number;
    }
  }

  // rng.permutation(n)
  permutation(n) {
    const places = Int32Array.from({length: n}, (_, k) => k);
    for (let k = n - 1; k > 0; k--) {
      const other = this.#below(k);
      [places[k], places[other]] = [places[other], places[k]];
    }
    return places;
  }

  // rng.random()
  uniform() {
    return Number(this.#word() >> 11n) / 2 ** 53;
  }

  // rng.standard_normal()
  normal() {
    for (;;) {
      const word = this.#word(), layer = Number(word & 0xffn), size = Number(word >> 9n & 0xfffffffffffffn);
      const negative = word & 0x100n, x = size * WIDTHS[layer];
      if (size < INSIDE[layer]) return negative ? -x : x;
      if (layer) {
        const height = (HEIGHTS[layer - 1] - HEIGHTS[layer]) * this.uniform() + HEIGHTS[layer];
        if (height < Math.exp(-0.5 * x * x)) return negative ? -x : x;
      } else {
        for (;;) {
          const across = -Math.log1p(-this.uniform()) / TAIL, up = -Math.log1p(-this.uniform());
          if (up + up > across * across) return size & 0x100 ? -(TAIL + across) : TAIL + across;
        }
      }
    }
  }
}
