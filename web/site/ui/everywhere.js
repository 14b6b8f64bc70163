/** Every sample on the strip with everyone, without the removed, and under the null. */

import { isFinished, lastOf } from "../trajectories.js";
import { get, h, many, paint, picture } from "./dom.js";

export class Everywhere {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    this.box = get("everywhere");
    this.told = "";
    this.open = false;
    this.cancelling = new AbortController();
    document.addEventListener("everywhere", () => {
      this.open = true;
      this.told = "";
      this.update();
      this.box.scrollIntoView({
        block: "start",
        behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
      });
      get("everywhere-heading").focus({ preventScroll: true });
    });
  }

  update() {
    const { app } = this,
      { view } = app,
      removal = app.removal();
    if (!this.open) return;
    if (!removal || removal.empty) {
      this.close();
      return;
    }
    const now = JSON.stringify([view.without, view.spare, Boolean(app.trajectories)]);
    if (now === this.told) return;
    this.told = now;
    this.draw(removal);
  }

  close() {
    this.cancelling.abort();
    this.open = false;
    this.box.hidden = true;
    this.told = "";
  }

  /** @param {import("../app.js").Removal} removal */
  async draw(removal) {
    const { app } = this,
      { site, view, trajectories } = app;
    this.cancelling.abort();
    this.cancelling = new AbortController();
    const { signal } = this.cancelling;
    const cards = site.seeds.map((seed) => new Card(seed, site));
    const summary = h("p", { class: "verdict" }, "Denoising…");
    this.box.hidden = false;
    this.box.replaceChildren(
      h(
        "div",
        { class: "answer-head" },
        h("h2", { id: "everywhere-heading", tabindex: "-1" }, `${app.names(view.without)} removed everywhere`),
        h("button", { type: "button", class: "quiet close", "aria-label": "Close", onclick: () => this.close() }, "×"),
      ),
      summary,
      h("div", { class: "cards" }, ...cards.map((card) => card.element)),
    );
    const sets = [null, removal.gone, removal.null?.gone ?? null];
    try {
      const moved = [];
      for (const card of cards) moved.push(await this.fill(card, sets, signal));
      const known = moved.filter(([, spare]) => spare !== null);
      const farther = known.filter(([own, spare]) => own > /** @type {number} */ (spare)).length;
      summary.textContent = known.length
        ? `The removal moved the picture farther than its null in ${farther} of ${many(known.length, "sample")}; where only components mattered, about half would.`
        : "There is no null to compare with.";
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "AbortError")
        summary.textContent = `Drawing stopped: ${/** @type {Error} */ (error).message}`;
    }
  }

  /**
   * Stored pictures where there are, else drawn here. Returns both distances.
   * @param {Card} card @param {(boolean[] | null)[]} sets @param {AbortSignal} signal
   * @returns {Promise<[number, number | null]>}
   */
  async fill(card, sets, signal) {
    const { app } = this,
      { site, view, trajectories } = app,
      removal = app.removal(),
      sample = site.sample(card.seed);
    const spare = removal?.null?.spare;
    const exact = site.factual(card.seed);
    if (sample !== null && view.without.length === 1 && exact && site.isStored(spare)) {
      const pictures = [
        exact,
        await site.without(sample, view.without[0]),
        await site.underSpare(sample, /** @type {number} */ (spare)),
      ];
      signal.throwIfAborted();
      return card.show(pictures, "stored (exact)");
    }
    if (!trajectories) throw new Error("the ensemble is not open");
    const everyone = site.code.words[0].map(() => true);
    const rows = sets.flatMap((gone, k) =>
      gone || k === 0 ? [{ seed: card.seed, alive: gone ? gone.map((dark) => !dark) : everyone }] : [],
    );
    const { trajectories: drawn, done } = trajectories.draw(rows, { signal, urgent: false });
    await done;
    return card.show(
      drawn.filter(isFinished).map(lastOf),
      site.manifest.engine === "server" ? "redrawn by the server" : "redrawn here",
    );
  }
}

/** One sample: three pictures and how far two of them moved. */
class Card {
  /** @param {number} seed @param {import("../site.js").Site} site */
  constructor(seed, site) {
    this.seed = seed;
    this.site = site;
    this.told = site.told(seed);
    const names = ["with everyone", "without", "null"];
    this.canvases = names.map((name) => picture(null, site.shape, `${this.told}, ${name}: not drawn yet`));
    this.notes = names.map((name) => h("span", {}, name));
    this.tag = h("span", { class: "tag" }, "…");
    this.element = h(
      "article",
      { class: "card", "aria-label": this.told },
      h("div", { class: "card-head" }, h("strong", {}, this.told), this.tag),
      h("div", { class: "trio" }, ...this.canvases.map((canvas, k) => h("div", {}, canvas, this.notes[k]))),
    );
  }

  /** @param {Uint8Array[]} pictures @param {string} tag @returns {[number, number | null]} */
  show(pictures, tag) {
    const [own, spare] = [pictures[1], pictures[2] ?? null].map((levels) =>
      levels ? this.site.distance(pictures[0], levels) : null,
    );
    pictures.forEach((levels, k) => paint(this.canvases[k], levels, this.site.shape));
    const texts = [
      "with everyone",
      `without: ${own?.toFixed(1)}`,
      spare === null ? "no null" : `null: ${spare.toFixed(1)}`,
    ];
    texts.forEach((text, k) => {
      this.notes[k].textContent = text;
      this.canvases[k].setAttribute("aria-label", `${this.told}, ${text}, ${tag}`);
    });
    this.tag.textContent = tag;
    this.tag.dataset.kind = tag.startsWith("stored") ? "stored" : "here";
    return [/** @type {number} */ (own), spare];
  }
}
