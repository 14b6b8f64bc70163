/**
 * Drawing: many trajectories in one batch, a step at a time, so that whoever asked can watch, or change their mind.
 *
 * @typedef {{seed: number, alive: boolean[]}} Row one trajectory: whose noise, and which components take part
 * @typedef {{step: number, of: number, levels: Uint8Array, guess: Uint8Array}} Frame
 *   after `step` steps of `of`: the noisy pictures and the guesses at the finished ones, (rows, D) each
 */

import { noise } from "./rng.js";
import { makeSteps, takeStep, toLevels } from "./sampling.js";

/**
 * @param {import("./denoisers.js").Denoise} denoise
 * @param {Row[]} rows
 * @param {{sampler: string, steps: number, schedule: import("./sampling.js").Schedule, size: number,
 *          threshold: number | null, clip?: boolean}} how `size` is the number of values per picture
 * @returns {AsyncGenerator<Frame>} first the noise, then every step
 */
export async function* draw(denoise, rows, { sampler, steps, schedule, size, threshold, clip }) {
  const seeds = [...new Set(rows.map((row) => row.seed))];
  const alive = rows.map((row) => row.alive);
  const noiseOf = (/** @type {number} */ step) => {
    const drawn = new Map(seeds.map((seed) => [seed, noise(seed, step, size)]));
    const batch = new Float32Array(rows.length * size);
    rows.forEach((row, r) => batch.set(/** @type {Float32Array} */ (drawn.get(row.seed)), r * size));
    return batch;
  };
  const x = noiseOf(0);
  const guess = new Float32Array(x.length);
  yield { step: 0, of: steps, levels: toLevels(x), guess: toLevels(x) };
  const table = makeSteps(sampler, schedule, steps);
  let done = 0;
  for (const step of table) {
    const predicted = await denoise(x, step.t, alive);
    takeStep(step, x, predicted, step.fresh === 0 ? null : noiseOf(done + 1), guess, clip);
    if (step.half) continue;
    done++;
    const last = done === steps ? threshold : null;
    yield { step: done, of: steps, levels: toLevels(x, last), guess: toLevels(guess, last) };
  }
}
