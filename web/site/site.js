/**
 * What `ablatable explore` put beside this page: the run, its training images, and the exact pictures of a universe.
 */

import { Code } from "./code.js";
import { fetchBytes } from "./engine/fetching.js";

/**
 * @typedef {{id: string, images: number, word: string}} Unit
 * @typedef {{words: string[], ablation: number[], spares: number[], samples: string[], of: number, distances: string,
 *            statistic?: string, level?: number, tests?: string, radius_p?: number[]}} Stored
 * @typedef {{tests: string, alpha: number, level: number, exact: boolean, least_q: number}} Witness
 */

export class Site {
  /** Fetch what is needed at once. @param {string} base @returns {Promise<Site>} */
  static async open(base) {
    const manifest = JSON.parse(new TextDecoder().decode(await fetchBytes(new URL("data/manifest.json", base))));
    const file = (/** @type {string | undefined} */ name) =>
      name ? fetchBytes(new URL(name, base)) : Promise.resolve(null);
    const { images, factual } = manifest.files;
    const parts = await Promise.all([
      file(images),
      file(factual),
      file(manifest.stored?.distances),
      file(manifest.stored?.tests),
      file(manifest.witness?.tests),
    ]);
    return new Site(base, manifest, parts);
  }

  /** @param {string} base @param {any} manifest @param {(Uint8Array | null)[]} parts */
  constructor(base, manifest, [images, factual, distances, tests, witness]) {
    this.base = base;
    this.manifest = manifest;
    /** @type {[number, number, number]} */
    this.shape = manifest.shape;
    this.size = this.shape[0] * this.shape[1] * this.shape[2];
    /** @type {Unit[]} */
    this.units = manifest.units;
    /** @type {number[]} */
    this.seeds = manifest.seeds;
    /** @type {string[] | null} what each of the seeds' samples was asked to show; null if nothing in particular */
    this.asked = manifest.asked ?? null;
    /** @type {Stored | null} */
    this.stored = manifest.stored ?? null;
    this.images = /** @type {Uint8Array} */ (images);
    this.exactFactual = /** @type {Uint8Array} */ (factual);
    this.distances = distances && new Float32Array(distances.buffer);
    this.tests = tests && new Float32Array(tests.buffer);
    /** @type {Witness | null} */
    this.witness = manifest.witness ?? null;
    this.witnessTests = witness && new Float32Array(witness.buffer);
    const spares = this.stored ? this.stored.spares.map((row) => /** @type {Stored} */ (this.stored).words[row]) : [];
    this.code = new Code(
      this.units.map((unit) => unit.word),
      [...spares, ...manifest.spares.filter((/** @type {string} */ word) => !spares.includes(word))],
    );
    let first = 0;
    this.firstImage = this.units.map((unit) => (first += unit.images) - unit.images);
    this.owner = this.units.flatMap((unit, k) => Array(unit.images).fill(k));
    /** What one unit is called: a picture where every unit is one. */
    this.noun = this.units.every((unit) => unit.images === 1) ? "picture" : "unit";
    /** @type {Map<number, Promise<Uint8Array>>} */
    this.landscapes = new Map();
  }

  /** The training image of that number. */
  image(/** @type {number} */ number) {
    return this.images.subarray(number * this.size, (number + 1) * this.size);
  }

  /** The exact factual picture of a seed, if it is on the page's strip. @param {number} seed */
  factual(seed) {
    const at = this.seeds.indexOf(seed);
    return at < 0 ? null : this.exactFactual.subarray(at * this.size, (at + 1) * this.size);
  }

  /** A sample in words: its seed, and what it was asked to show. New noise is asked for what the first sample is. */
  told(/** @type {number} */ seed) {
    const asked = this.asked?.[Math.max(0, this.seeds.indexOf(seed))];
    return asked ? `Seed ${seed}, ${asked}` : `Seed ${seed}`;
  }

  /** Which sample of the universe a seed is; null without one. @param {number} seed */
  sample(seed) {
    const at = this.stored ? this.seeds.indexOf(seed) : -1;
    return at < 0 ? null : at;
  }

  /** One sample's exact pictures under every ablation. @param {number} sample @returns {Promise<Uint8Array>} */
  landscape(sample) {
    const stored = /** @type {Stored} */ (this.stored);
    if (!this.landscapes.has(sample)) {
      this.landscapes.set(sample, fetchBytes(new URL(stored.samples[sample], this.base)));
    }
    return /** @type {Promise<Uint8Array>} */ (this.landscapes.get(sample));
  }

  /** The exact picture without a unit. @param {number} sample @param {number} unit */
  async without(sample, unit) {
    return this.ablated(sample, /** @type {Stored} */ (this.stored).ablation[unit]);
  }

  /** The exact picture under the spare of that number. @param {number} sample @param {number} spare */
  async underSpare(sample, spare) {
    return this.ablated(sample, /** @type {Stored} */ (this.stored).spares[spare]);
  }

  /** @param {number} sample @param {number} row */
  async ablated(sample, row) {
    const pictures = await this.landscape(sample);
    return pictures.subarray(row * this.size, (row + 1) * this.size);
  }

  /** Whether a spare has stored pictures. @param {number | null | undefined} spare */
  isStored(spare) {
    return spare !== null && spare !== undefined && this.stored !== null && spare < this.stored.spares.length;
  }

  /** Stored distance, p and q of a unit's removal from a sample. @param {number} sample @param {number} unit */
  test(sample, unit) {
    if (!this.stored || !this.distances) return null;
    const samples = this.stored.samples.length,
      count = this.units.length;
    const distance = this.distances[this.stored.ablation[unit] * samples + sample];
    if (!this.tests) return { distance, p: null, q: null };
    return {
      distance,
      p: this.tests[unit * samples + sample],
      q: this.tests[(count + unit) * samples + sample],
    };
  }

  /** p and q of the witness test; null for noise that is not on the strip. @param {number} seed @param {number} unit */
  recognised(seed, unit) {
    const at = this.seeds.indexOf(seed),
      samples = this.seeds.length;
    if (at < 0 || !this.witnessTests) return null;
    return {
      p: this.witnessTests[unit * samples + at],
      q: this.witnessTests[(this.units.length + unit) * samples + at],
    };
  }

  /** Nulls with which one unit alone, beyond all of them, could stand out among all units; null if there are enough. */
  nullsNeeded() {
    const level = this.stored?.level ?? 0.1,
      needed = Math.max(1, Math.ceil(this.units.length / level - 1e-9) - 1);
    return (this.stored?.spares.length ?? 0) < needed ? needed : null;
  }

  /** Stored distances of all spares from a sample. @param {number} sample @returns {number[]} */
  spareDistances(sample) {
    const { stored, distances } = this;
    return stored && distances ? stored.spares.map((row) => distances[row * stored.samples.length + sample]) : [];
  }

  /** Euclidean distance of two pictures in the paper's unit: values in [0, 1], pictures scaled to 256 x 256 x 3. */
  distance(/** @type {Uint8Array} */ a, /** @type {Uint8Array} */ b) {
    let squares = 0;
    for (let k = 0; k < this.size; k++) squares += (a[k] - b[k]) ** 2;
    return (Math.sqrt(squares) / 255) * Math.sqrt((256 * 256 * 3) / this.size);
  }

  /** The training image nearest to a picture. @param {Uint8Array} picture @returns {{image: number, unit: number}} */
  nearest(picture) {
    let best = 0,
      least = Infinity;
    for (let image = 0; image < this.owner.length; image++) {
      let squares = 0;
      const at = image * this.size;
      for (let k = 0; k < this.size && squares < least; k++) squares += (picture[k] - this.images[at + k]) ** 2;
      if (squares < least) [best, least] = [image, squares];
    }
    return { image: best, unit: this.owner[best] };
  }
}
