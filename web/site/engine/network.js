/**
 * Trained components, run by onnxruntime-web: by its WebAssembly program in this thread, or by WebGPU.
 *
 * Helpers share the components out among themselves. They need nothing of the host, whereas threads inside WebAssembly
 * need two HTTP headers that most static hosts do not send.
 *
 * @typedef {"wasm" | "webgpu"} Where
 */

import { fetchBytes } from "./fetching.js";

/** Of each way to run: its loader, and its program, which lie beside this page. */
const RUNTIMES = {
  wasm: {
    load: () => import("../vendor/ort.wasm.bundle.min.mjs"),
    program: new URL("../vendor/ort-wasm-simd-threaded.wasm.gz", import.meta.url),
  },
  webgpu: {
    load: () => import("../vendor/webgpu/ort.webgpu.bundle.min.mjs"),
    program: new URL("../vendor/webgpu/ort-wasm-simd-threaded.asyncify.wasm.gz", import.meta.url),
  },
};

/**
 * Make onnxruntime ready.
 * @param {Where} where @returns {Promise<(model: Uint8Array, shape: [number, number, number]) =>
 *   Promise<import("./denoisers.js").Component>>} a function that opens a component: an ONNX file of shape (C, H, W)
 */
export async function prepare(where) {
  const { load, program } = RUNTIMES[where];
  const ort = await load();
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = await fetchBytes(program);
  return async (model, shape) => {
    const session = await ort.InferenceSession.create(model, { executionProviders: [where], logSeverityLevel: 3 });
    const size = shape[0] * shape[1] * shape[2];
    return async (x, t) => {
      const outcome = await session.run({
        x: new ort.Tensor("float32", x, [x.length / size, ...shape]),
        t: new ort.Tensor("int64", BigInt64Array.of(BigInt(t)), [1]),
      });
      return /** @type {Float32Array} */ (outcome.noise.data);
    };
  };
}
