/** A helper worker: holds some of the components and runs them. See `network.js`. */

import { fetchBytes } from "./fetching.js";
import { prepare } from "./network.js";

/** @type {Map<number, import("./denoisers.js").Component>} */
const components = new Map();

/** @param {{id: number, open?: {index: number, file: string}[], where: import("./network.js").Where,
 *           shape: [number, number, number], index: number, x: Float32Array, t: number}} message */
async function answer(message) {
  if (message.open) {
    const openComponent = await prepare(message.where);
    for (const { index, file } of message.open) {
      components.set(index, await openComponent(await fetchBytes(file), message.shape));
      postMessage({ opened: index });
    }
    return { id: message.id };
  }
  const component = components.get(message.index);
  if (!component) throw new Error(`component ${message.index} is not here`);
  return { id: message.id, noise: await component(message.x, message.t) };
}

// onnxruntime runs one session at a time in a thread
let queue = Promise.resolve();
onmessage = ({ data }) => {
  queue = queue.then(async () => {
    try {
      const reply = await answer(data);
      postMessage(reply);
    } catch (error) {
      postMessage({ id: data.id, error: String(error) });
    }
  });
};
