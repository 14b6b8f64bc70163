/** Small helpers to make elements and to paint pictures. All texts go in as text, never as HTML. */

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [attributes] `on...` adds a listener, `class` and others set an attribute; null leaves out
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flatMap((child) => (child || child === "" ? [child] : [])));
  return element;
}

/** An element of the page that must be there. @template {Element} [T=HTMLElement] @param {string} id @returns {T} */
export function get(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return /** @type {T} */ (/** @type {unknown} */ (found));
}

/**
 * Paint 8-bit levels, (C, H, W), onto a canvas of that many pixels.
 * @param {HTMLCanvasElement} canvas @param {Uint8Array} levels @param {[number, number, number]} shape
 */
export function paint(canvas, levels, [channels, height, width]) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  const plane = width * height;
  for (let k = 0; k < plane; k++) {
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = levels[(channels === 3 ? c : 0) * plane + k];
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/**
 * A picture with a description; an empty one makes it decoration.
 * @param {Uint8Array | null} levels @param {[number, number, number]} shape @param {string} label
 */
export function picture(levels, shape, label = "") {
  const canvas = h("canvas", label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" });
  canvas.style.aspectRatio = `${shape[2]} / ${shape[1]}`;
  if (levels) paint(canvas, levels, shape);
  return canvas;
}

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} tag @param {Record<string, string | number>} attributes @param {...(Node | string)} children */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** A count and its noun. @param {number} count @param {string} noun */
export const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Names in a row: "a", "a and b", "a, b and 3 more". @param {string[]} names @param {number} [most] */
export function listed(names, most = 3) {
  if (names.length > most) return `${names.slice(0, most - 1).join(", ")} and ${names.length - most + 1} more`;
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/**
 * A probability or rate for people. It is rounded up, so that what is above a level never reads as if it were at it;
 * single precision's last digits are no reason to.
 * @param {number} value
 */
export function rate(value) {
  const digits = value < 0.0999999 ? 3 : 2,
    scale = 10 ** digits;
  return (Math.ceil(value * scale - 1e-4) / scale).toFixed(digits);
}
