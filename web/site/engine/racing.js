/** Which of two denoisers of the same ensemble to use: the second has to agree with the first and to be faster. */

import { noise } from "./rng.js";

const ROUNDS = 4;
/** Largest difference of the predicted noise, in units of it: far less than a grey level of a finished picture. */
const AGREES = 1e-3;

/**
 * @param {import("./denoisers.js").Denoise} first @param {import("./denoisers.js").Denoise} second
 * @param {{size: number, components: number, idle: () => Promise<void>, rounds?: number, handicap?: number}} how
 *   `idle` resolves when nothing else is being drawn; `handicap`: the second's time is multiplied by it
 * @returns {Promise<import("./denoisers.js").Denoise>} one of the two
 */
export async function fasterOf(first, second, { size, components, idle, rounds = ROUNDS, handicap = 1 }) {
  const alive = [0, 1, 2].map(() => Array(components).fill(true)); // as many rows as a removal draws
  const x = Float32Array.from([0, 1, 2].flatMap((row) => [...noise(row, 0, size)]));
  const t = 500;
  const here = await first(x, t, alive),
    there = await second(x, t, alive); // the first pass prepares the GPU's programs, so it is not timed
  if (here.some((value, k) => !(Math.abs(value - there[k]) <= AGREES))) return first;
  const best = [Infinity, Infinity];
  for (let round = 0; round < rounds; round++) {
    for (const [which, denoise] of [first, second].entries()) {
      await idle();
      const began = performance.now();
      await denoise(x, t, alive);
      best[which] = Math.min(best[which], performance.now() - began);
    }
  }
  return best[1] * handicap < best[0] ? second : first;
}
