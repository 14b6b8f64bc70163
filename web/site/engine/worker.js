/**
 * The engine's thread: opens the ensemble, then draws what it is asked for, a step of one job after a step of another.
 *
 * In:  {open: manifest, base}, {draw: job, rows, urgent}, {cancel: job}
 * Out: {opened: number of components ready}, {ready: milliseconds}, {where: what runs it now},
 *      {job, frame}, {job, done: milliseconds}, {error}
 */

import { ideal, meanOf } from "./denoisers.js";
import { draw } from "./drawing.js";
import { fetchBytes } from "./fetching.js";
import { fasterOf } from "./racing.js";
import { alphasCumprod } from "./sampling.js";

/** @typedef {{id: number, frames: AsyncGenerator<import("./drawing.js").Frame>, urgent: boolean, began: number}} Job */

/** @type {Map<number, Job>} */
const jobs = new Map();
/** @type {import("./denoisers.js").Denoise} */
let denoise;
/** @type {any} */
let manifest;
let running = false;

onmessage = async ({ data }) => {
  try {
    if (data.open) await open(data.open, data.base);
    else if (data.cancel !== undefined) jobs.delete(data.cancel);
    else await begin(data);
  } catch (error) {
    postMessage({ error: String(error), job: data.draw });
  }
};

/** @param {any} described the site's manifest @param {string} base the site's address */
async function open(described, base) {
  const began = performance.now();
  manifest = described;
  const size = manifest.shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
  if (manifest.kind === "ideal") {
    const pictures = await fetchBytes(new URL(manifest.files.images, base));
    denoise = ideal(pictures, size, splits(), alphasCumprod(manifest.schedule));
  } else {
    const count = Math.max(1, Math.min(4, manifest.components, (navigator.hardwareConcurrency || 2) - 1));
    denoise = meanOf(await openHelpers(base, "wasm", count), size);
  }
  postMessage({ ready: performance.now() - began });
  if (manifest.webgpu && manifest.kind !== "ideal") void tryGpu(base, size);
}

/**
 * Open the ensemble once more on the GPU, if there is one, and draw there from then on if that agrees and is faster.
 * Whatever goes wrong, the page draws as before.
 */
async function tryGpu(/** @type {string} */ base, /** @type {number} */ size) {
  const plain = denoise;
  try {
    const gpu = /** @type {any} */ (navigator).gpu;
    if (!(await gpu?.requestAdapter())) return;
    const onGpu = meanOf(await openHelpers(base, "webgpu", 1), size);
    const idle = async () => {
      while (running) await new Promise((resume) => setTimeout(resume, 50));
    };
    const won = await fasterOf(plain, onGpu, { size, components: manifest.components, idle, ...manifest.webgpu });
    if (won !== onGpu) return;
    denoise = async (x, t, alive) => {
      try {
        return await onGpu(x, t, alive);
      } catch {
        denoise = plain; // the GPU was taken away, for example
        postMessage({ where: "wasm" });
        return plain(x, t, alive);
      }
    };
    postMessage({ where: "webgpu" });
  } catch (error) {
    console.info(`no WebGPU here: ${error}`);
  }
}

/** Of each component, the pictures of the units that it has. @returns {number[][]} */
function splits() {
  const parts = Array.from({ length: manifest.components }, () => /** @type {number[]} */ ([]));
  let first = 0;
  for (const { word, images } of manifest.units) {
    for (let image = first; image < first + images; image++) {
      parts.forEach((part, i) => word[i] === "1" && part.push(image));
    }
    first += images;
  }
  return parts;
}

/**
 * Components in `count` helper workers, shared out in turn.
 * @param {string} base @param {import("./network.js").Where} where @param {number} count
 * @returns {Promise<import("./denoisers.js").Component[]>}
 */
async function openHelpers(base, where, count) {
  const files = manifest.files.components.map((/** @type {string} */ file) => new URL(file, base).href);
  const helpers = Array.from({ length: count }, () => new Helper(where));
  await Promise.all(
    helpers.map((helper, h) =>
      helper.ask({
        open: files.flatMap((/** @type {string} */ file, /** @type {number} */ index) =>
          index % count === h ? [{ index, file }] : [],
        ),
        where,
        shape: manifest.shape,
      }),
    ),
  );
  return files.map(
    (/** @type {string} */ _, /** @type {number} */ index) =>
      async (/** @type {Float32Array} */ x, /** @type {number} */ t) =>
        (await helpers[index % count].ask({ index, x, t })).noise,
  );
}

/** A worker that answers. */
class Helper {
  /** @param {import("./network.js").Where} where what it runs on */
  constructor(where) {
    this.worker = new Worker(new URL("./helper.js", import.meta.url), { type: "module" });
    /** @type {Map<number, {resolve: (value: any) => void, reject: (reason: Error) => void}>} */
    this.waiting = new Map();
    this.asked = 0;
    this.worker.onmessage = ({ data }) => {
      if (data.opened !== undefined) {
        if (where === "wasm") postMessage({ opened: data.opened });
        return;
      }
      const waiting = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.error) waiting?.reject(new Error(data.error));
      else waiting?.resolve(data);
    };
    this.worker.onerror = (event) => {
      const error = new Error(event.message || "a helper worker could not start");
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
    };
  }

  /** @param {object} question @returns {Promise<any>} */
  ask(question) {
    const id = ++this.asked;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...question });
    });
  }
}

/** @param {{draw: number, rows: import("./drawing.js").Row[], urgent: boolean}} request */
async function begin({ draw: id, rows, urgent }) {
  const { sampler, steps, schedule, shape, threshold, clip } = manifest;
  const how = { sampler, steps, schedule, threshold, clip, size: shape[0] * shape[1] * shape[2] };
  jobs.set(id, {
    id,
    frames: draw((x, t, alive) => denoise(x, t, alive), rows, how),
    urgent,
    began: performance.now(),
  });
  if (running) return;
  running = true;
  while (jobs.size) await advance();
  running = false;
}

/** One step of the job that comes first: what someone waits for, the newest of it, before what fills in. */
async function advance() {
  const waiting = [...jobs.values()];
  const job = waiting.filter((one) => one.urgent).pop() ?? waiting[0];
  try {
    const { value, done } = await job.frames.next();
    await new Promise((resume) => setTimeout(resume)); // lets messages in: a cancellation, a more urgent job
    if (!jobs.has(job.id)) return;
    if (!done) {
      postMessage({ job: job.id, frame: value }, { transfer: [value.levels.buffer, value.guess.buffer] });
      return;
    }
    jobs.delete(job.id);
    postMessage({ job: job.id, done: performance.now() - job.began });
  } catch (error) {
    jobs.delete(job.id);
    postMessage({ error: String(error), job: job.id });
  }
}
