/**
 * The ensemble's code: which components saw which unit, who survives a removal, and which components to remove as null.
 */

import { blake2b128, Philox } from "./engine/rng.js";

/** @param {string} word @returns {boolean[]} */
export const bits = (word) => [...word].map((bit) => bit === "1");

export class Code {
  /**
   * @param {string[]} words one codeword per unit
   * @param {string[]} spares codewords that no unit has, those with stored pictures first
   */
  constructor(words, spares) {
    this.words = words.map(bits);
    this.spares = spares.map(bits);
    this.components = this.words[0].length;
  }

  /** Which components saw any of these units. @param {number[]} units @returns {boolean[]} */
  removed(units) {
    return Array.from({ length: this.components }, (_, i) => units.some((unit) => this.words[unit][i]));
  }

  /** Units of which no component is left that saw them, whoever was asked to go. @param {boolean[]} gone */
  goneWith(gone) {
    return this.words.flatMap((word, unit) =>
      word.some(Boolean) && word.every((bit, i) => !bit || gone[i]) ? [unit] : [],
    );
  }

  /** The most of these units, in order, that can go together. @param {number[]} units @returns {number} */
  longest(units) {
    let count = 0;
    while (count < units.length && !this.removed(units.slice(0, count + 1)).every(Boolean)) count++;
    return count;
  }

  /**
   * A null for a removal: as many components, in a set that removes none of the removed units. Where there are spare
   * codewords of that size it is one of these; else the set, out of many drawn, that removes the fewest units.
   * @param {boolean[]} gone @param {number[]} units the units removed @param {number} number which null
   * @returns {{gone: boolean[], spare: number | null, units: number[]} | null} null if there is no such set
   */
  nullOf(gone, units, number) {
    const size = gone.filter(Boolean).length;
    const fitting = this.spares.flatMap((word, k) => (word.filter(Boolean).length === size ? [k] : []));
    if (fitting.length) {
      const spare = fitting[number % fitting.length];
      return { gone: this.spares[spare], spare, units: [] };
    }
    const random = new Philox(blake2b128(`('explorer', ${number}, ${size})`));
    /** @type {{gone: boolean[], spare: null, units: number[]} | null} */
    let best = null;
    for (let k = 0; k < 200; k++) {
      const set = this.someSet(size, random);
      const taken = this.goneWith(set);
      if (taken.some((unit) => units.includes(unit)) || set.every((bit, i) => bit === gone[i])) continue;
      if (!best || taken.length < best.units.length) best = { gone: set, spare: null, units: taken };
      if (!best.units.length) break;
    }
    return best;
  }

  /** `size` components at random. @param {number} size @param {Philox} random */
  someSet(size, random) {
    const order = Array.from({ length: this.components }, (_, i) => i);
    for (let k = 0; k < size; k++) {
      const pick = k + (random.next() % (order.length - k));
      [order[k], order[pick]] = [order[pick], order[k]];
    }
    const chosen = new Set(order.slice(0, size));
    return Array.from({ length: this.components }, (_, i) => chosen.has(i));
  }
}
