/**
 * Trained components, run by onnxruntime-web in this thread or in helper workers.
 *
 * Helpers share the components out among themselves. They need nothing of the host, whereas threads inside WebAssembly
 * need two HTTP headers that most static hosts do not send.
 */

import * as ort from "../vendor/ort.wasm.bundle.min.mjs";
import { fetchBytes } from "./fetching.js";

const WASM = new URL("../vendor/ort-wasm-simd-threaded.wasm.gz", import.meta.url);

/** Make onnxruntime ready: one thread, and the program that lies beside this page. */
export async function prepare() {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = await fetchBytes(WASM);
}

/**
 * One component as a function.
 * @param {Uint8Array} model an ONNX file @param {[number, number, number]} shape (C, H, W)
 * @returns {Promise<import("./denoisers.js").Component>}
 */
export async function openComponent(model, shape) {
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const size = shape[0] * shape[1] * shape[2];
  return async (x, t) => {
    const outcome = await session.run({
      x: new ort.Tensor("float32", x, [x.length / size, ...shape]),
      t: new ort.Tensor("int64", BigInt64Array.of(BigInt(t)), [1]),
    });
    return /** @type {Float32Array} */ (outcome.noise.data);
  };
}
