/**
 * Ensembles as denoisers: the mean of the surviving components' predictions, each row of a batch with its own survivors.
 *
 * @callback Denoise
 * @param {Float32Array} x (rows, D) @param {number} t @param {boolean[][]} alive (rows, components)
 * @returns {Promise<Float32Array>} predicted noise (rows, D)
 *
 * @callback Component
 * @param {Float32Array} x (rows, D) @param {number} t @returns {Promise<Float32Array>} predicted noise (rows, D)
 */

/**
 * An ensemble of networks. Each component sees only the rows in which it survives.
 * @param {Component[]} components @param {number} size D, values per picture @returns {Denoise}
 */
export function meanOf(components, size) {
  return async (x, t, alive) => {
    const rowsOf = components.map((_, i) => alive.flatMap((row, r) => (row[i] ? [r] : [])));
    const predictions = await Promise.all(
      components.map((component, i) => (rowsOf[i].length ? component(gather(x, rowsOf[i], size), t) : null)),
    );
    const total = new Float32Array(x.length);
    predictions.forEach((predicted, i) => {
      if (predicted) rowsOf[i].forEach((row, k) => add(total, row * size, predicted, k * size, size));
    });
    alive.forEach((row, r) => divide(total, r * size, size, row.filter(Boolean).length));
    return total;
  };
}

function gather(/** @type {Float32Array} */ x, /** @type {number[]} */ rows, /** @type {number} */ size) {
  if (rows.length * size === x.length) return x;
  const picked = new Float32Array(rows.length * size);
  rows.forEach((row, k) => picked.set(x.subarray(row * size, (row + 1) * size), k * size));
  return picked;
}

/** @param {Float32Array} to @param {number} at @param {Float32Array} from @param {number} start @param {number} size */
function add(to, at, from, start, size) {
  for (let k = 0; k < size; k++) to[at + k] += from[start + k];
}

/** @param {Float32Array} values @param {number} at @param {number} size @param {number} by */
function divide(values, at, size, by) {
  for (let k = 0; k < size; k++) values[at + k] /= by;
}

/**
 * An ensemble of ideal components, which need no weights: of a finite data set the best denoiser is known.
 *
 * With a = abar_t, component i's guess at the picture is the mean of its split under
 *     p(j | x_t) = softmax_j(-|x_t - sqrt(a) x^(j)|^2 / (2 (1 - a))),
 * and its noise is (x_t - sqrt(a) guess) / sqrt(1 - a). The ensemble's mean is linear in the guesses, so the weights
 * of all survivors are added up first and every picture is mixed in once.
 *
 * @param {Uint8Array} pictures (M, D), levels in the order (C, H, W) @param {number} size D
 * @param {number[][]} splits of each component, the pictures it has @param {Float64Array} abar
 * @returns {Denoise}
 */
export function ideal(pictures, size, splits, abar) {
  const count = pictures.length / size;
  const data = Float32Array.from(pictures, (level) => Math.fround(level / 127.5) - 1);
  const squares = Float64Array.from({ length: count }, (_, j) => dot(data, j * size, data, j * size, size));
  return async (x, t, alive) => {
    const a = abar[t],
      signal = Math.sqrt(a),
      noise = Math.sqrt(1 - a);
    const predicted = new Float32Array(x.length),
      logits = new Float64Array(count);
    alive.forEach((row, r) => {
      const at = r * size;
      for (let j = 0; j < count; j++) {
        logits[j] = (signal * dot(x, at, data, j * size, size) - (a / 2) * squares[j]) / (1 - a);
      }
      const weights = mixture(
        logits,
        splits.filter((_, i) => row[i]),
      );
      const guess = new Float64Array(size);
      for (let j = 0; j < count; j++) {
        if (weights[j] > 1e-12) for (let k = 0; k < size; k++) guess[k] += weights[j] * data[j * size + k];
      }
      for (let k = 0; k < size; k++) predicted[at + k] = (x[at + k] - signal * guess[k]) / noise;
    });
    return predicted;
  };
}

/** The mean over splits of the softmax within each. */
function mixture(/** @type {Float64Array} */ logits, /** @type {number[][]} */ splits) {
  const weights = new Float64Array(logits.length);
  for (const split of splits) {
    const top = split.reduce((most, j) => Math.max(most, logits[j]), -Infinity);
    const total = split.reduce((sum, j) => sum + Math.exp(logits[j] - top), 0);
    for (const j of split) weights[j] += Math.exp(logits[j] - top) / total / splits.length;
  }
  return weights;
}

/**
 * @param {Float32Array} a @param {number} from @param {Float32Array} b @param {number} start @param {number} size
 */
function dot(a, from, b, start, size) {
  let sum = 0;
  for (let k = 0; k < size; k++) sum += a[from + k] * b[start + k];
  return sum;
}
