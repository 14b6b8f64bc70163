/** What a removal did, in numbers and words: distances, the nearest training pictures, and the stored test. */

import { isFinished, lastOf } from "../trajectories.js";
import { get, h, many, picture, rate, svg } from "./dom.js";

const WITNESSES = 4; // removed units that a witness sentence is told of

export class Findings {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    this.box = get("findings");
    this.chips = get("removed");
    this.told = "";
  }

  update() {
    const { app } = this,
      { view } = app,
      removal = app.removal();
    const finished = app.isFinished();
    const now = JSON.stringify([view.seed, view.without, view.spare, finished, app.problem, Boolean(app.trajectories)]);
    if (now === this.told) return;
    this.told = now;
    this.chips.replaceChildren(...this.removed());
    if (app.problem) this.box.replaceChildren(h("p", { class: "problem", role: "alert" }, app.problem));
    else if (!removal) this.box.replaceChildren(...this.unremoved());
    else if (removal.empty) this.box.replaceChildren();
    else if (finished) this.box.replaceChildren(...this.compared(removal));
    else
      this.box.replaceChildren(h("p", { class: "hint" }, app.trajectories ? "Denoising…" : "The ensemble is opening…"));
  }

  /** Who is removed, each with a way back. */
  removed() {
    const { app } = this,
      { view, site } = app;
    if (!view.without.length) return [];
    const chip = (/** @type {number} */ unit) =>
      h(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-label": `Put ${site.units[unit].id} back`,
          onclick: () => app.toggle(unit),
        },
        picture(site.image(site.firstImage[unit]), site.shape),
        h("span", {}, site.units[unit].id),
        h("span", { class: "cross", "aria-hidden": "true" }, "×"),
      );
    const act = (/** @type {string} */ text, /** @type {() => void} */ onclick) =>
      h("button", { type: "button", class: "quiet", onclick }, text);
    return [
      ...view.without.map(chip),
      act("Put everyone back", () => app.change({ without: [] })),
      app.removal()?.null && act("Another null", () => app.change({ spare: view.spare + 1 })),
      act("Copy link", () => this.copyLink()),
    ].flatMap((part) => part ?? []);
  }

  async copyLink() {
    try {
      await navigator.clipboard.writeText(location.href);
      get("live").textContent = "Link copied.";
    } catch {
      get("live").textContent = "The link is in the address bar.";
    }
  }

  /** Before anything is removed: what the sample is nearest to. */
  unremoved() {
    const { app } = this,
      { site } = app,
      shown = app.drawn.factual;
    const levels = shown && isFinished(shown) ? lastOf(shown) : site.factual(app.view.seed);
    if (!levels) return [];
    const { image, unit } = site.nearest(levels);
    return [
      h(
        "p",
        { class: "nearest-line" },
        picture(site.image(image), site.shape, `training picture of ${site.units[unit].id}`),
        h(
          "span",
          {},
          `The nearest training picture is of `,
          h("strong", {}, site.units[unit].id),
          ". Is the sample owed to it? ",
        ),
        h(
          "button",
          { type: "button", class: "quiet", onclick: () => app.toggle(unit) },
          `Remove ${site.units[unit].id}`,
        ),
      ),
      ...this.witness([unit]),
    ];
  }

  /** What the components say about units: those that saw one against those that did not. @param {number[]} units */
  witness(units) {
    const { site, view } = this.app,
      { witness } = site;
    if (!witness) return [];
    const tested = units.flatMap((unit) => {
      const test = site.recognised(view.seed, unit);
      return test ? [{ unit, ...test }] : [];
    });
    if (!tested.length) return [];
    const sentence = (/** @type {{unit: number, p: number, q: number}} */ { unit, p, q }) =>
      `The components that saw ${site.units[unit].id} ` +
      (p <= witness.alpha
        ? "denoise this sample towards it more than chance allows"
        : "denoise this sample towards it no more than chance allows") +
      ` (p = ${rate(p)}, q = ${rate(q)}).`;
    return [
      h(
        "p",
        { class: "witness" },
        h("strong", {}, "Witness test. "),
        tested.slice(0, WITNESSES).map(sentence).join(" "),
        witness.exact ? "" : " These p-values are approximate: the code was not drawn at random.",
      ),
    ];
  }

  /** @param {import("../app.js").Removal} removal */
  compared(removal) {
    const { app } = this,
      { site, view, drawn } = app;
    const factual = lastOf(/** @type {any} */ (drawn.factual)),
      ablated = lastOf(/** @type {any} */ (drawn.ablated));
    const spare = drawn.null && isFinished(drawn.null) ? lastOf(drawn.null) : null;
    const moved = site.distance(factual, ablated),
      movedNull = spare ? site.distance(factual, spare) : null;
    const rows = [
      { name: "With everyone", levels: factual, distance: null },
      { name: `Without ${app.names(view.without)}`, levels: ablated, distance: moved },
      ...(spare ? [{ name: "Null", levels: spare, distance: movedNull }] : []),
    ];
    return [
      h("p", { class: "verdict" }, verdict(moved, movedNull)),
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, "How far each picture moved, and the training picture nearest to it"),
        h(
          "thead",
          {},
          h("tr", {}, ...["", "Moved by", "Nearest training picture"].map((text) => h("th", { scope: "col" }, text))),
        ),
        h("tbody", {}, ...rows.map((row) => this.row(row))),
      ),
      ...this.witness(view.without),
      ...this.stored(removal),
      h("p", { class: "hint" }, this.basis()),
    ];
  }

  /** @param {{name: string, levels: Uint8Array, distance: number | null}} row */
  row({ name, levels, distance }) {
    const { site, view } = this.app,
      { image, unit } = site.nearest(levels);
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", {}, distance === null ? "–" : distance.toFixed(1)),
      h(
        "td",
        {},
        h(
          "div",
          { class: view.without.includes(unit) ? "near was-removed" : "near" },
          picture(site.image(image), site.shape),
          h("span", {}, site.units[unit].id, view.without.includes(unit) ? " (removed)" : ""),
        ),
      ),
    );
  }

  /** The stored test of a single unit, and all stored spares beside it. @param {import("../app.js").Removal} removal */
  stored(removal) {
    const { site, view } = this.app,
      sample = site.sample(view.seed);
    if (!site.stored) return [];
    if (sample === null)
      return [h("p", { class: "hint" }, "This noise is new: no exact picture and no test of it are stored.")];
    if (view.without.length > 1) {
      return [
        h(
          "p",
          { class: "hint" },
          "Tests are stored for single removals; several together are compared with the null beside them.",
        ),
      ];
    }
    const unit = view.without[0],
      test = site.test(sample, unit),
      spares = site.spareDistances(sample);
    if (!test || !spares.length || test.p === null || test.q === null) return [];
    const farther = spares.filter((distance) => distance >= test.distance).length;
    const level = site.stored.level ?? 0.1;
    const stands = test.q <= level,
      needed = site.nullsNeeded();
    return [
      h(
        "p",
        {},
        h("strong", {}, stands ? "It stands out. " : "It does not stand out. "),
        `The stored picture moved by ${test.distance.toFixed(1)}; ${farther} of ${many(spares.length, "stored null")} moved as far. `,
        `p = ${rate(test.p)}, q = ${rate(test.q)} (${site.stored.statistic} test; marked where q ≤ ${level}).`,
        !stands && needed
          ? ` With ${many(spares.length, "null")} no single ${site.noun} can reach that among ${site.units.length}; it takes ${needed}.`
          : "",
      ),
      plot(test.distance, spares, site.units[unit].id),
    ];
  }

  basis() {
    const { site, milliseconds } = { ...this.app, site: this.app.site };
    const where = site.manifest.engine === "server" ? "by the server" : "in this browser";
    const time = milliseconds > 0 ? ` in ${(milliseconds / 1000).toFixed(1)} s` : "";
    return `Redrawn ${where}${time}. Distances are Euclidean, in the unit of pictures of 256 × 256 × 3. Every removal takes components away, which moves a picture by itself: only what goes beyond the null speaks of the ${site.noun}.`;
  }
}

/** @param {number} moved @param {number | null} movedNull */
function verdict(moved, movedNull) {
  if (moved === 0) return "Not a single pixel changed.";
  if (movedNull === null) return `The picture moved by ${moved.toFixed(1)}; there is no null to compare it with.`;
  const words =
    moved > movedNull ? "farther than its null" : moved < movedNull ? "less far than its null" : "as far as its null";
  return `The picture moved by ${moved.toFixed(1)}, ${words} (${movedNull.toFixed(1)}).`;
}

/**
 * All stored nulls on a line, and the removal among them.
 * @param {number} distance @param {number[]} spares @param {string} name
 */
function plot(distance, spares, name) {
  const width = 320,
    top = Math.max(distance, ...spares, 1) * 1.05;
  const x = (/** @type {number} */ value) => 8 + (value / top) * (width - 16);
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} 46`,
      class: "plot",
      role: "img",
      "aria-label": `Distances: ${name} ${distance.toFixed(1)}; stored nulls from ${Math.min(...spares).toFixed(1)} to ${Math.max(...spares).toFixed(1)}`,
    },
    svg("line", { x1: 8, x2: width - 8, y1: 28, y2: 28, class: "axis" }),
    ...spares.map((spare) => svg("line", { x1: x(spare), x2: x(spare), y1: 22, y2: 34, class: "spare" })),
    svg("circle", { cx: x(distance), cy: 28, r: 5, class: "unit" }),
    svg(
      "text",
      {
        x: Math.min(width - 8, Math.max(8, x(distance))),
        y: 14,
        class: "unit-name",
        "text-anchor": x(distance) > width / 2 ? "end" : "start",
      },
      name,
    ),
    svg("text", { x: 8, y: 44, class: "scale" }, "0"),
    svg("text", { x: width - 8, y: 44, class: "scale", "text-anchor": "end" }, `${top.toFixed(0)}`),
  );
}
