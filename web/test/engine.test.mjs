/**
 * The engine against numbers that the Python library computed a moment ago: the file that EXPECTED names, which
 * tests/test_explorer_engine.py writes. By itself: `node --test web/test/` runs what needs no such file.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { Code } from "../site/code.js";
import { readView, writeView } from "../site/address.js";
import { ideal, meanOf } from "../site/engine/denoisers.js";
import { draw } from "../site/engine/drawing.js";
import { fasterOf } from "../site/engine/racing.js";
import { blake2b128, noise } from "../site/engine/rng.js";
import { alphasCumprod, rint, takeStep, toLevels } from "../site/engine/sampling.js";
import { withQ } from "../site/ui/answers.js";
import { rate } from "../site/ui/dom.js";

const expected = process.env.EXPECTED ? JSON.parse(readFileSync(process.env.EXPECTED, "utf8")) : null;
const compared = { skip: expected ? false : "EXPECTED names no file of numbers from Python" };

/** @param {ArrayLike<number>} ours @param {number[]} theirs @param {number} within */
function close(ours, theirs, within, what = "") {
  assert.equal(ours.length, theirs.length, what);
  let most = 0;
  for (let k = 0; k < theirs.length; k++) most = Math.max(most, Math.abs(ours[k] - theirs[k]));
  assert.ok(most <= within, `${what} differs by ${most}, more than ${within}`);
}

test("BLAKE2b of keys", compared, () => {
  for (const { key, digest } of expected.digests) {
    const hex = blake2b128(key)
      .map((word) => word.toString(16).padStart(16, "0").match(/../g).reverse().join(""))
      .join("");
    assert.equal(hex, digest, key);
  }
});

test("noise, value for value", compared, () => {
  for (const { seed, step, values } of expected.noise) {
    const ours = noise(seed, step, values.length);
    const different = values.filter((/** @type {number} */ value, /** @type {number} */ k) => ours[k] !== value);
    // beyond 3.65 the platform's logarithm decides, which may differ in its last bit
    assert.ok(
      different.every((/** @type {number} */ value) => Math.abs(value) > 3.65),
      `seed ${seed}, step ${step}`,
    );
    close(ours, values, 1e-6, `seed ${seed}, step ${step}`);
  }
});

test("abar of schedules", compared, () => {
  for (const { schedule, abar } of expected.schedules) close(alphasCumprod(schedule), abar, 1e-12);
});

test("8-bit levels round half to even", compared, () => {
  const { values, levels, threshold, black_or_white: binary } = expected.levels;
  assert.deepEqual([...toLevels(Float32Array.from(values))], levels);
  assert.deepEqual([...toLevels(Float32Array.from(values), threshold)], binary);
  assert.deepEqual([0.5, 1.5, 2.5, -0.5, 254.5].map(rint), [0, 2, 2, -0, 254]);
});

test("whole trajectories of every sampler", compared, async () => {
  for (const { sampler, steps, clip, schedule, size, seeds, final, weight } of expected.trajectories) {
    // a denoiser whose prediction depends on x and t, and squashes, so that errors of either show
    const denoise = async (/** @type {Float32Array} */ x, /** @type {number} */ t) =>
      Float32Array.from(x, (value) => Math.tanh(value) * weight + t / 4000);
    const rows = seeds.map((/** @type {number} */ seed) => ({ seed, alive: [true] }));
    let last;
    for await (const frame of draw(denoise, rows, { sampler, steps, clip, schedule, size, threshold: null }))
      last = frame;
    assert.equal(last?.step, steps);
    close(last?.levels ?? [], final, 1, `${sampler}, ${steps} steps, clip ${clip}`);
  }
});

test("ideal ensembles", compared, async () => {
  for (const { pictures, size, splits, schedule, x, t, alive, noise: predicted } of expected.ideal) {
    const denoise = ideal(Uint8Array.from(pictures), size, splits, alphasCumprod(schedule));
    close(await denoise(Float32Array.from(x), t, alive), predicted, 2e-5, `t = ${t}`);
  }
});

test("the mean is over each row's own survivors", async () => {
  const asked = [];
  const components = [1, 10, 100].map((value) => async (/** @type {Float32Array} */ x) => {
    asked.push(x.length / 2);
    return x.map((one) => one * value);
  });
  const denoise = meanOf(components, 2);
  const alive = [
    [true, true, true],
    [true, false, false],
    [false, true, true],
  ];
  const out = await denoise(Float32Array.of(1, 1, 2, 2, 3, 3), 5, alive);
  assert.deepEqual([...out], [37, 37, 2, 2, 165, 165]);
  assert.deepEqual(asked, [2, 2, 2]); // a component never sees a row that it takes no part in
});

test("clipping keeps the guess in range, and the noise that belongs to it", () => {
  const step = { t: 9, signal: 0.6, noise: 0.8, keep: 0, guess: 0.9, earlier: 0, towards: 0.4, fresh: 0 };
  const x = Float32Array.of(3, 0.3),
    guess = new Float32Array(2);
  takeStep(step, x, Float32Array.of(-1, 0.1), null, guess, true);
  assert.equal(guess[0], 1); // (3 + 0.8) / 0.6 is beyond
  close(x, [0.9 + 0.4 * ((3 - 0.6) / 0.8), 0.9 * ((0.3 - 0.08) / 0.6) + 0.04], 1e-6);
});

const WORDS = ["110000", "011000", "001100", "000110"];

test("survivors, collateral, and how many can go together", () => {
  const code = new Code(WORDS, ["100001"]);
  assert.deepEqual(code.removed([0, 2]), [true, true, true, true, false, false]);
  assert.deepEqual(code.goneWith(code.removed([0, 2])), [0, 1, 2]); // whoever saw unit 1 has gone with the others
  assert.equal(new Code(["1100", "0011", "1000"], []).longest([0, 2, 1]), 2);
  assert.equal(code.longest([0, 1, 2, 3]), 4);
});

test("a null is as large as the removal, removes nobody where it can, and never a removed unit", () => {
  const code = new Code(WORDS, ["100001", "010010"]);
  assert.deepEqual(code.nullOf(code.removed([0]), [0], 0)?.gone, code.spares[0]);
  assert.deepEqual(code.nullOf(code.removed([0]), [0], 3)?.gone, code.spares[1]);
  for (const [units, number] of /** @type {[number[], number][]} */ ([
    [[0, 1], 0],
    [[0, 2], 1],
    [[1, 3], 2],
  ])) {
    const gone = code.removed(units),
      chosen = code.nullOf(gone, units, number);
    assert.equal(chosen?.gone.filter(Boolean).length, gone.filter(Boolean).length);
    assert.ok(!code.goneWith(chosen?.gone ?? []).some((unit) => units.includes(unit)));
    assert.deepEqual(chosen?.units, code.goneWith(chosen?.gone ?? []));
    assert.deepEqual(code.nullOf(gone, units, number), chosen); // a link shows the same null again
  }
  const each = new Code(["1000", "0100", "0010", "0001"], []);
  assert.deepEqual(each.nullOf(each.removed([0, 1]), [0, 1], 0)?.units, [2, 3]); // the only set that spares both removed
  const all = new Code(["10", "01"], []);
  assert.deepEqual(all.nullOf(all.removed([0]), [0], 0)?.units, [1]); // there is no other: it says whom it removes
});

test("an address says what is shown, whatever the names", () => {
  const units = ["a", "b,c", "100%", "d&e=f", "ü %2C"].map((id) => ({ id, images: 1, word: "10" }));
  const site = /** @type {any} */ ({ units, seeds: [4, 5], manifest: { steps: 25 } });
  const view = { seed: 77, without: [1, 4, 2, 3], spare: 2, step: 7 };
  assert.deepEqual(readView(writeView(view, site), site), view);
  assert.deepEqual(readView("#seed=x&without=nobody,a,a&step=99&spare=-1", site), {
    seed: 4,
    without: [0],
    spare: 0,
    step: null,
  });
});

test("q-values", compared, () => {
  const { p, q } = expected.q;
  close(
    withQ(
      p.map((/** @type {number} */ one, /** @type {number} */ unit) => ({ unit, distance: 0, p: one, q: null })),
    ).map((row) => row.q ?? -1),
    q,
    1e-12,
  );
});

test("the second way to draw is taken only if it agrees and is faster", async () => {
  const after = (/** @type {number} */ ms, /** @type {number} */ off) => async (/** @type {Float32Array} */ x) => {
    await new Promise((resume) => setTimeout(resume, ms));
    return x.map((value) => value * 0.5 + off);
  };
  const how = { size: 12, components: 3, idle: async () => {} };
  const slow = after(40, 0),
    fast = after(1, 1e-5),
    wrong = after(1, 0.01),
    broken = after(1, NaN);
  assert.equal(await fasterOf(slow, fast, how), fast);
  assert.equal(await fasterOf(fast, slow, how), fast);
  assert.equal(await fasterOf(slow, wrong, how), slow);
  assert.equal(await fasterOf(slow, broken, how), slow);
  assert.equal(await fasterOf(fast, slow, { ...how, handicap: 0 }), slow);
});

test("a rate above a level does not read as if it were at it", () => {
  assert.equal(rate(0.1001), "0.11");
  assert.equal(rate(Math.fround(0.1)), "0.10");
  assert.equal(rate(Math.fround(0.05)), "0.050");
  assert.equal(rate(0.0501), "0.051");
  assert.equal(rate(0.0012), "0.002");
  assert.equal(rate(0.01), "0.010");
  assert.equal(rate(1 / 72), "0.014");
  assert.equal(rate(1), "1.00");
});
