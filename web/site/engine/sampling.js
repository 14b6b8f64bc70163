/**
 * The samplers of the library: `ddpm` (ancestral, strided), `ddim`, `dpmsolver++` (second order, multistep) and `heun`
 * (second order, two predictions per step).
 *
 * Every step of any of them is linear in what it is given,
 *     x0 = (x_t - noise * e) / signal                           (the picture the ensemble guesses at)
 *     x  = keep * x_t + guess * x0 + earlier * x0_before + towards * e + fresh * z
 * so a sampler is a table of numbers, one row per prediction, and one loop applies them all.
 *
 * @typedef {{train_steps: number, beta_start: number, beta_end: number}} Schedule
 * @typedef {{t: number, signal: number, noise: number, keep: number, guess: number, earlier: number,
 *            towards: number, fresh: number, half?: boolean}} Step  `half`: another prediction ends the step
 */

/** abar_t for t = 0 .. train_steps - 1: how much of the picture's variance is left. @param {Schedule} schedule */
export function alphasCumprod({ train_steps: count, beta_start: first, beta_end: last }) {
  const abar = new Float64Array(count);
  let product = 1;
  for (let t = 0; t < count; t++) {
    product *= 1 - (count > 1 ? first + ((last - first) * t) / (count - 1) : first);
    abar[t] = product;
  }
  return abar;
}

/** Round half to even, as NumPy and PyTorch do. */
export function rint(/** @type {number} */ value) {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 !== 0 ? near - 1 : near;
}

/**
 * A sampler's steps, the noisiest first.
 * @param {string} sampler @param {Schedule} schedule @param {number} steps @returns {Step[]}
 */
export function makeSteps(sampler, schedule, steps) {
  const abar = alphasCumprod(schedule);
  if (sampler === "dpmsolver++") return multistep(abar, steps);
  if (sampler === "heun") return heun(abar, steps);
  if (sampler !== "ddpm" && sampler !== "ddim") throw new Error(`no sampler '${sampler}'`);
  const stride = Math.floor(abar.length / steps);
  return Array.from({ length: steps }, (_, k) => {
    const t = (steps - 1 - k) * stride;
    const now = abar[t],
      next = t >= stride ? abar[t - stride] : 1;
    // DDIM paper, eq. 16: with eta = 1 the fresh noise has the variance of the ancestral sampler
    const variance = sampler === "ddpm" ? ((1 - next) / (1 - now)) * (1 - now / next) : 0;
    return {
      t,
      signal: Math.sqrt(now),
      noise: Math.sqrt(1 - now),
      keep: 0,
      guess: Math.sqrt(next),
      earlier: 0,
      towards: Math.sqrt(Math.max(0, 1 - next - variance)),
      fresh: Math.sqrt(variance),
    };
  });
}

/** DPM-Solver++ (2M), Lu et al. 2022, algorithm 2; first order at both ends. */
function multistep(/** @type {Float64Array} */ abar, /** @type {number} */ steps) {
  const times = Array.from({ length: steps }, (_, k) => rint(((abar.length - 1) * (steps - k)) / steps));
  const levels = times.map((t) => ({ signal: Math.sqrt(abar[t]), noise: Math.sqrt(1 - abar[t]) }));
  levels.push({ signal: 1, noise: 0 });
  const lambda = levels.map(({ signal, noise }) => Math.log(signal / noise)); // infinite at the end
  return times.map((t, k) => {
    const now = levels[k],
      next = levels[k + 1],
      h = lambda[k + 1] - lambda[k];
    const pull = -next.signal * Math.expm1(-h);
    const first = k === 0 || k === steps - 1;
    const ratio = first ? 0 : h / (lambda[k] - lambda[k - 1]) / 2; // D = (1 + 1/2r) x0 - 1/2r x0_before
    return {
      t,
      ...now,
      keep: next.noise / now.noise,
      guess: pull * (1 + ratio),
      earlier: -pull * ratio,
      towards: 0,
      fresh: 0,
    };
  });
}

/** Heun's steps, Karras et al. 2022, algorithm 1: see the library's `diffusion/heun.py`. */
function heun(/** @type {Float64Array} */ abar, /** @type {number} */ steps) {
  const sigma = [...abar].map((a) => Math.sqrt((1 - a) / a)); // infinite where abar is 0
  const times = heunTimes(sigma, steps);
  const at = (/** @type {number} */ t) => ({ t, signal: Math.sqrt(abar[t]), noise: Math.sqrt(1 - abar[t]) });
  const nothing = { keep: 0, guess: 0, earlier: 0, towards: 0, fresh: 0 };
  return times.flatMap((t, k) => {
    if (k + 1 === steps) return [{ ...at(t), ...nothing, guess: 1 }];
    const next = times[k + 1],
      change = sigma[next] - sigma[t],
      { signal } = at(next);
    return [
      { ...at(t), ...nothing, keep: signal / Math.sqrt(abar[t]), towards: signal * change, half: true },
      // half of the first prediction, which is (x / signal - x0_before) / sigma of where it led, is taken back
      {
        ...at(next),
        ...nothing,
        keep: 1 - change / 2 / sigma[next],
        earlier: (signal * change) / 2 / sigma[next],
        towards: (signal * change) / 2,
      },
    ];
  });
}

/** Different timesteps, highest first, spread as sigma^(1/7) is. */
function heunTimes(/** @type {number[]} */ sigma, /** @type {number} */ steps) {
  const known = sigma.filter(Number.isFinite),
    low = known[0] ** (1 / 7),
    high = Math.min(80, known[known.length - 1]) ** (1 / 7);
  const times = /** @type {number[]} */ ([]);
  for (let k = 0; k < steps; k++) {
    const level = 7 * Math.log(steps > 1 ? low + ((high - low) * k) / (steps - 1) : high);
    let near = 0;
    known.forEach((value, t) => {
      if (Math.abs(Math.log(value) - level) < Math.abs(Math.log(known[near]) - level)) near = t;
    });
    times.push(k > 0 ? Math.max(near, times[k - 1] + 1) : near);
  }
  return times.map((t, k) => Math.min(t, sigma.length - steps + k)).reverse();
}

/**
 * Take one step for a whole batch. With `clip`, guesses are first brought into [-1, 1], and the noise with them: a noisy
 * start makes a small error of the noise a large one of the guess.
 * @param {Step} step
 * @param {Float32Array} x x_t, changed in place
 * @param {Float32Array} predicted the ensemble's noise e, same shape
 * @param {Float32Array | null} z fresh noise, same shape; needed where `fresh` is not 0
 * @param {Float32Array} guess x0 of the step before, changed in place to that of this one
 * @param {boolean} [clip]
 */
export function takeStep(step, x, predicted, z, guess, clip = false) {
  for (let k = 0; k < x.length; k++) {
    const before = guess[k];
    let e = predicted[k],
      x0 = (x[k] - step.noise * e) / step.signal;
    if (clip && Math.abs(x0) > 1) {
      x0 = Math.sign(x0);
      e = (x[k] - step.signal * x0) / step.noise;
    }
    let value = step.keep * x[k] + step.guess * x0 + step.towards * e;
    if (step.earlier !== 0) value += step.earlier * before;
    if (step.fresh !== 0 && z) value += step.fresh * z[k];
    x[k] = value;
    guess[k] = x0;
  }
}

/**
 * Values as 8-bit levels: clamped to [-1, 1], scaled, rounded half to even; with a threshold, black or white.
 * @param {Float32Array} values @param {number | null} [threshold] @returns {Uint8Array}
 */
export function toLevels(values, threshold = null) {
  const levels = new Uint8Array(values.length);
  for (let k = 0; k < values.length; k++) {
    const above = Math.fround(Math.min(1, Math.max(-1, values[k])) + 1); // in single precision, as PyTorch does
    const level = rint(Math.fround(above * 127.5));
    levels[k] = threshold === null ? level : level >= threshold ? 255 : 0;
  }
  return levels;
}
