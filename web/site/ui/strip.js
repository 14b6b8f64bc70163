/** The strip of seeds: one factual picture each, one of them chosen. */

import { get, h, picture } from "./dom.js";

export class Strip {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    this.strip = get("strip");
    /** @type {number[]} seeds made up here, which have no stored picture */
    this.fresh = [];
    this.strip.addEventListener("keydown", (event) => this.move(event));
    get("new-noise").addEventListener("click", () => {
      app.change({ seed: 1000 + Math.floor(Math.random() * 999_000) });
    });
  }

  /** All seeds on the strip. */
  seeds() {
    const { site, view } = this.app;
    if (!site.seeds.includes(view.seed) && !this.fresh.includes(view.seed)) this.fresh.push(view.seed);
    return [...site.seeds, ...this.fresh.slice(-6)];
  }

  /** Arrow keys move along the strip, as in any group of radio buttons. @param {KeyboardEvent} event */
  move(event) {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const seeds = this.seeds();
    const at = (seeds.indexOf(this.app.view.seed) + by + seeds.length) % seeds.length;
    this.app.change({ seed: seeds[at] });
    this.strip.querySelector(`[data-seed="${seeds[at]}"]`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
    /** @type {HTMLElement | null} */ (this.strip.querySelector(`[data-seed="${seeds[at]}"]`))?.focus();
  }

  update() {
    const { view } = this.app,
      seeds = this.seeds();
    if (this.strip.dataset.shown !== seeds.join()) {
      this.strip.dataset.shown = seeds.join();
      this.strip.replaceChildren(...seeds.map((seed) => this.button(seed)));
    }
    for (const button of this.strip.children) {
      const chosen = button.getAttribute("data-seed") === String(view.seed);
      button.setAttribute("aria-checked", String(chosen));
      button.setAttribute("tabindex", chosen ? "0" : "-1");
    }
  }

  /** @param {number} seed */
  button(seed) {
    const { site } = this.app,
      levels = site.factual(seed),
      told = site.told(seed);
    return h(
      "button",
      {
        type: "button",
        role: "radio",
        class: levels ? "seed" : "seed bare",
        "data-seed": seed,
        "aria-label": levels ? told : `${told}, new noise`,
        title: `${told}: ${levels ? "stored (exact)" : "new noise"}`,
        onclick: () => this.app.change({ seed }),
      },
      levels ? picture(levels, site.shape) : h("span", {}, "new"),
    );
  }
}
