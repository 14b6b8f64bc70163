/** The lamps: one per component, lit while it takes part. A second, smaller row shows the null's. */

import { get, h, many } from "./dom.js";

export class Lamps {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    /** @type {number | null} the component whose units are pointed out on the wall */
    this.pointed = null;
    const { code, manifest } = app.site;
    const row = (/** @type {string} */ kind, /** @type {(i: number) => HTMLElement} */ make) =>
      h("div", { class: `lamp-row ${kind}` }, ...Array.from({ length: code.components }, (_, i) => make(i)));
    this.buttons = row("own", (i) =>
      h(
        "button",
        { type: "button", class: "lamp", "data-component": i, onclick: () => this.point(i) },
        String(manifest.numbers[i]),
      ),
    );
    this.dots = row("null", () => h("span", { class: "lamp dot" }));
    this.nullRow = h(
      "div",
      { class: "null-lamps", "aria-hidden": "true" },
      h("span", { class: "label" }, "null"),
      this.dots,
    );
    get("lamps").append(this.buttons, this.nullRow);
  }

  /** Point out, on the wall, what a component saw. @param {number} component */
  point(component) {
    this.pointed = this.pointed === component ? null : component;
    document.dispatchEvent(new CustomEvent("point", { detail: this.pointed }));
    this.update();
  }

  update() {
    const { app } = this,
      { site } = app,
      removal = app.removal();
    const hovered = app.preview === null ? null : site.code.words[app.preview];
    [...this.buttons.children].forEach((lamp, i) => {
      const dark = removal?.gone[i] ?? false;
      const saw = site.code.words.filter((word) => word[i]).length;
      lamp.classList.toggle("dark", dark);
      lamp.classList.toggle("about", Boolean(hovered?.[i]) && !dark);
      lamp.setAttribute("aria-pressed", String(this.pointed === i));
      lamp.setAttribute(
        "aria-label",
        `Component ${site.manifest.numbers[i]}: ${dark ? "dark" : "lit"}, trained on ${saw} of ${many(site.units.length, site.noun)}. Point them out on the wall`,
      );
      lamp.setAttribute(
        "title",
        `Component ${site.manifest.numbers[i]} was trained on ${saw} of ${many(site.units.length, site.noun)}`,
      );
    });
    this.nullRow.hidden = !removal?.null;
    [...this.dots.children].forEach((dot, i) => dot.classList.toggle("dark", removal?.null?.gone[i] ?? false));
    get("budget").textContent = this.sentence();
    get("budget").classList.toggle("out", Boolean(removal?.empty));
  }

  sentence() {
    const { app } = this,
      { code, noun } = app.site,
      removal = app.removal(),
      { without } = app.view;
    if (!removal) return `All ${code.components} components draw. A lamp shows which ${noun}s it was trained on.`;
    if (removal.empty) {
      const fit = code.longest(without);
      const able = fit
        ? `${app.names(without.slice(0, fit))} can go together`
        : "it cannot be removed from this ensemble";
      return `No component is left: each of the ${code.components} was trained on one of these ${noun}s or more, so nobody is left who never saw them. ${fit ? `${able}; put ${app.names(without.slice(fit))} back` : able}.`;
    }
    const left = removal.gone.filter((gone) => !gone).length;
    const also = code.goneWith(removal.gone).filter((unit) => !without.includes(unit));
    return (
      `${left} of ${many(code.components, "component")} left, and none of them ever saw ${app.names(without)}.` +
      (also.length ? ` With them went everybody who saw ${app.names(also)}, so that is removed too.` : "")
    );
  }
}
