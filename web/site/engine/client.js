/**
 * Engines as the page sees them: something that draws rows step by step. One runs in a worker of this browser; the other
 * asks the server that this page came from, for ensembles too big to send.
 *
 * @typedef {import("./drawing.js").Row} Row
 * @typedef {import("./drawing.js").Frame} Frame
 * @typedef {{urgent?: boolean, signal?: AbortSignal, onFrame: (frame: Frame) => void}} Options
 * @typedef {{draw: (rows: Row[], options: Options) => Promise<number>, where: string,
 *            onmoved?: () => void}} Engine
 *   `where` may change, then `onmoved` is called; `draw` resolves to the milliseconds it took, and rejects with an AbortError once `signal` is aborted
 */

const PLACES = { wasm: "in this browser", webgpu: "in this browser, on the GPU" };

const aborted = () => new DOMException("cancelled", "AbortError");

/**
 * Open the engine a manifest names.
 * @param {any} manifest @param {string} base the site's address
 * @param {(opened: number) => void} onOpened how many components are ready
 * @returns {Promise<Engine>}
 */
export function openEngine(manifest, base, onOpened) {
  return manifest.engine === "server" ? Promise.resolve(server(base)) : local(manifest, base, onOpened);
}

/** @param {any} manifest @param {string} base @param {(opened: number) => void} onOpened @returns {Promise<Engine>} */
function local(manifest, base, onOpened) {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  /** @type {Map<number, {onFrame: (frame: Frame) => void, resolve: (ms: number) => void, reject: (e: Error) => void}>} */
  const jobs = new Map();
  let asked = 0,
    opened = 0;

  /** @type {Engine["draw"]} */
  const draw = (rows, { urgent = true, signal, onFrame }) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(aborted());
      const id = ++asked;
      jobs.set(id, { onFrame, resolve, reject });
      signal?.addEventListener("abort", () => {
        if (!jobs.delete(id)) return;
        worker.postMessage({ cancel: id });
        reject(aborted());
      });
      worker.postMessage({ draw: id, rows, urgent });
    });

  /** @type {Engine} */
  const engine = { draw, where: PLACES.wasm };
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      const job = jobs.get(data.job);
      if (data.opened !== undefined) onOpened(++opened);
      else if (data.ready !== undefined) resolve(engine);
      else if (data.where !== undefined) {
        engine.where = PLACES[/** @type {import("./network.js").Where} */ (data.where)];
        engine.onmoved?.();
      } else if (data.frame) job?.onFrame(data.frame);
      else if (data.job !== undefined) {
        jobs.delete(data.job);
        if (data.error) job?.reject(new Error(data.error));
        else job?.resolve(data.done);
      } else if (data.error) reject(new Error(data.error));
    };
    worker.onerror = (event) => reject(new Error(event.message || "the engine could not start"));
    worker.postMessage({ open: manifest, base });
  });
}

/** Levels from base64. */
const unpacked = (/** @type {string} */ text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** An engine behind the server's `/api/draw`, which streams one event per step. @returns {Engine} */
function server(/** @type {string} */ base) {
  return {
    where: "by the server of this page",
    async draw(rows, { signal, onFrame }) {
      const began = performance.now();
      const response = await fetch(new URL("api/draw", base), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ rows }),
        signal,
      });
      if (!response.ok || !response.body) {
        const told = await response.json().catch(() => null);
        throw new Error(typeof told?.detail === "string" ? told.detail : `the server answered ${response.status}`);
      }
      for await (const event of events(response.body)) {
        if (event.error) throw new Error(event.error);
        onFrame({ ...event, levels: unpacked(event.levels), guess: unpacked(event.guess) });
      }
      return performance.now() - began;
    },
  };
}

/** The values of a stream of server-sent events. @param {ReadableStream<Uint8Array>} body */
async function* events(body) {
  const reader = body.getReader(),
    decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const parts = rest.split("\n\n");
    rest = /** @type {string} */ (parts.pop());
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}
