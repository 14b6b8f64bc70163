/**
 * The library's stateless randomness, number for number: every draw is a pure function of a key.
 *
 * A key such as ('noise', seed, step) is hashed with BLAKE2b to the 128-bit key of a Philox 4x64-10 generator (Salmon
 * et al. 2011). Its bits become normals by a ziggurat of 256 layers (Marsaglia and Tsang 2000) in single precision. So
 * noise needs no download, and any seed can be drawn: the browser makes the very numbers that Python makes.
 */

// --- BLAKE2b (RFC 7693) of a message of at most one block, to 16 bytes ----------------------------------------

const MASK = (1n << 64n) - 1n;
const IV = [
  0x6a09e667f3bcc908n,
  0xbb67ae8584caa73bn,
  0x3c6ef372fe94f82bn,
  0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n,
  0x9b05688c2b3e6c1fn,
  0x1f83d9abfb41bd6bn,
  0x5be0cd19137e2179n,
];
const SIGMA = [
  "0123456789abcdef",
  "ea489fd61c02b753",
  "b8c052fdae367194",
  "7931dcbe265a40f8",
  "905724afe1bc683d",
  "2c6a0b834d75fe19",
  "c51fed4a0763928b",
  "db7ec13950f4862a",
  "6fe9b308c2d714a5",
  "a2847615fb9e3cd0",
].map((row) => [...row].map((digit) => parseInt(digit, 16)));
/** Which four words each of a round's eight mixings works on. */
const MIXED = [
  [0, 4, 8, 12],
  [1, 5, 9, 13],
  [2, 6, 10, 14],
  [3, 7, 11, 15],
  [0, 5, 10, 15],
  [1, 6, 11, 12],
  [2, 7, 8, 13],
  [3, 4, 9, 14],
];

const rotate = (/** @type {bigint} */ word, /** @type {bigint} */ by) => ((word >> by) | (word << (64n - by))) & MASK;

/**
 * The first two 64-bit words of BLAKE2b-128 of a text, which are all of its 16 bytes.
 * @param {string} text at most 128 bytes in UTF-8
 * @returns {[bigint, bigint]} little-endian
 */
export function blake2b128(text) {
  const bytes = new TextEncoder().encode(text);
  if (bytes.length > 128) throw new RangeError("keys of one block only");
  const block = new DataView(new ArrayBuffer(128));
  bytes.forEach((byte, at) => block.setUint8(at, byte));
  const message = Array.from({ length: 16 }, (_, k) => block.getBigUint64(8 * k, true));
  const start = [...IV];
  start[0] ^= 0x01010000n ^ 16n; // fanout 1, depth 1, no key, 16 bytes of digest
  const v = [...start, ...IV];
  v[12] ^= BigInt(bytes.length);
  v[14] ^= MASK; // the last block
  for (let round = 0; round < 12; round++) {
    const order = SIGMA[round % 10];
    MIXED.forEach(([a, b, c, d], k) => {
      v[a] = (v[a] + v[b] + message[order[2 * k]]) & MASK;
      v[d] = rotate(v[d] ^ v[a], 32n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = rotate(v[b] ^ v[c], 24n);
      v[a] = (v[a] + v[b] + message[order[2 * k + 1]]) & MASK;
      v[d] = rotate(v[d] ^ v[a], 16n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = rotate(v[b] ^ v[c], 63n);
    });
  }
  return [start[0] ^ v[0] ^ v[8], start[1] ^ v[1] ^ v[9]];
}

// --- Philox 4x64-10, in halves of 32 bits, which is ten times as fast as BigInt --------------------------------

/** The upper 32 bits of the product of two 32-bit numbers. */
function high(/** @type {number} */ a, /** @type {number} */ b) {
  const al = a & 0xffff,
    ah = a >>> 16,
    bl = b & 0xffff,
    bh = b >>> 16;
  const middle = ah * bl + ((al * bl) >>> 16);
  return ah * bh + Math.floor(middle / 65536) + ((((middle & 0xffff) + al * bh) / 65536) >>> 0);
}

const MULTIPLIER = [
  [0xd2e7470e, 0xe14c6c93],
  [0xca5a8263, 0x95121157],
]; // [upper, lower] half
const WEYL = [
  [0x9e3779b9, 0x7f4a7c15],
  [0xbb67ae85, 0x84caa73b],
];
const TWO32 = 4294967296;

/** A generator of 32-bit numbers, as NumPy's `Generator(Philox(key=...))` gives them out. */
export class Philox {
  /** @param {[bigint, bigint]} key two 64-bit words */
  constructor(key) {
    this.key = key.map((word) => [Number(word >> 32n), Number(word & 0xffffffffn)]);
    this.counter = 0; // below 2^32 blocks of eight numbers
    this.block = new Uint32Array(8);
    this.at = 8;
  }

  /** The next 32 bits; of each 64-bit word the lower half comes first. */
  next() {
    if (this.at === 8) {
      this.counter += 1; // NumPy counts before it draws
      this.fill();
      this.at = 0;
    }
    return this.block[this.at++];
  }

  /** Ten rounds over the counter. */
  fill() {
    let x = [
      [0, this.counter],
      [0, 0],
      [0, 0],
      [0, 0],
    ];
    const key = this.key.map((word) => [...word]);
    for (let round = 0; round < 10; round++) {
      const [h0, l0] = multiply(x[0], MULTIPLIER[0]);
      const [h1, l1] = multiply(x[2], MULTIPLIER[1]);
      x = [
        [h1[0] ^ x[1][0] ^ key[0][0], h1[1] ^ x[1][1] ^ key[0][1]],
        l1,
        [h0[0] ^ x[3][0] ^ key[1][0], h0[1] ^ x[3][1] ^ key[1][1]],
        l0,
      ];
      for (let k = 0; k < 2; k++) {
        const lower = (key[k][1] >>> 0) + WEYL[k][1];
        key[k] = [(key[k][0] + WEYL[k][0] + (lower >= TWO32 ? 1 : 0)) >>> 0, lower >>> 0];
      }
    }
    x.forEach(([upper, lower], k) => {
      this.block[2 * k] = lower;
      this.block[2 * k + 1] = upper;
    });
  }
}

/**
 * The 128-bit product of two 64-bit words.
 * @param {number[]} x @param {number[]} m [upper, lower] @returns {[number[], number[]]} upper and lower word
 */
function multiply([xh, xl], [mh, ml]) {
  xh >>>= 0;
  xl >>>= 0;
  const middle = high(xl, ml) + (Math.imul(xl, mh) >>> 0) + (Math.imul(xh, ml) >>> 0);
  const third = (Math.imul(xh, mh) >>> 0) + high(xl, mh) + high(xh, ml) + Math.floor(middle / TWO32);
  const fourth = high(xh, mh) + Math.floor(third / TWO32);
  return [
    [fourth >>> 0, third >>> 0],
    [middle >>> 0, Math.imul(xl, ml) >>> 0],
  ];
}

// --- normals by a ziggurat --------------------------------------------------------------------------------------

const R = 3.6541528853610088; // where the tail begins
const AREA = 0.00492867323399; // of each of the 256 layers
const INTEGERS = 2 ** 23; // a position within a layer has so many values
const { fround } = Math;
const density = (/** @type {number} */ x) => Math.exp(-0.5 * x * x);

/** Layers: `edge` scales a 23-bit integer to x, below `inside` x is under the curve, `curve` is the density. */
const LAYERS = (() => {
  const edge = new Float32Array(256),
    inside = new Uint32Array(256),
    curve = new Float32Array(256);
  let x = R;
  edge[255] = R / INTEGERS;
  curve[255] = density(R);
  inside[0] = Math.round(((R * density(R)) / AREA) * INTEGERS);
  edge[0] = AREA / density(R) / INTEGERS;
  curve[0] = 1;
  for (let k = 254; k >= 1; k--) {
    const next = Math.sqrt(-2 * Math.log(AREA / x + density(x)));
    inside[k + 1] = Math.round((next / x) * INTEGERS);
    edge[k] = next / INTEGERS;
    curve[k] = density(next);
    x = next;
  }
  inside[1] = 0;
  return { edge, inside, curve };
})();

/** The next number of [0, 1), single precision. */
const unit = (/** @type {Philox} */ bits) => (bits.next() >>> 8) / 16777216;

/** One standard normal, single precision. */
function normal(/** @type {Philox} */ bits) {
  const { edge, inside, curve } = LAYERS;
  for (;;) {
    const drawn = bits.next();
    const layer = drawn & 0xff,
      negative = (drawn >>> 8) & 1,
      place = (drawn >>> 9) & 0x7fffff;
    const size = fround(place * edge[layer]);
    const x = negative ? -size : size;
    if (place < inside[layer]) return x;
    if (layer === 0) {
      for (;;) {
        const beyond = fround(-fround(1 / R) * fround(Math.log1p(-unit(bits))));
        const y = -fround(Math.log1p(-unit(bits)));
        if (fround(y + y) > fround(beyond * beyond)) {
          const far = fround(fround(R) + beyond);
          return (place >>> 8) & 1 ? -far : far;
        }
      }
    }
    const step = fround(fround(curve[layer - 1] - curve[layer]) * unit(bits));
    if (fround(step + curve[layer]) < density(x)) return x;
  }
}

/**
 * The noise of one step of one seed's trajectory; step 0 is the start x_T.
 * @param {number} seed @param {number} step @param {number} size number of values
 * @returns {Float32Array} in the order (C, H, W)
 */
export function noise(seed, step, size) {
  const bits = new Philox(blake2b128(`('noise', ${seed}, ${step})`));
  const values = new Float32Array(size);
  for (let k = 0; k < size; k++) values[k] = normal(bits);
  return values;
}

/** The ziggurat's tables, for the test that compares them with those of NumPy. */
export const tables = LAYERS;
