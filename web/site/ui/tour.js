/** A guided tour of five steps, for a first visitor. It does on the page what it speaks of. */

import { get, h } from "./dom.js";

export class Tour {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    this.box = get("tour");
    this.at = 0;
    this.open = false;
    get("tour-start").addEventListener("click", () => this.go(0));
    this.box.addEventListener("keydown", (event) => event.key === "Escape" && (event.stopPropagation(), this.close()));
  }

  steps() {
    const { site, view } = this.app,
      { noun } = site;
    const picture = site.factual(view.seed) ?? site.factual(site.seeds[0]);
    const near = picture ? site.nearest(picture).unit : 0;
    const name = site.units[near].id,
      { components } = site.code;
    return [
      {
        at: "panel-factual",
        title: "A picture out of noise",
        text: `Each step takes away a little noise. ${components} small networks, the components, each say which, and their mean is followed. The seed fixes the noise, so the same seed always gives the same picture.`,
        act: () => {
          this.app.change({ seed: site.factual(view.seed) ? view.seed : site.seeds[0], without: [], spare: 0 });
          if (this.app.trajectories) get("play").click();
        },
      },
      {
        at: "tour-lamps",
        title: "Who saw what",
        text: `No component was trained on everything. Every ${noun} has a code: the components that saw it. Click a lamp and the wall shows what that one was trained on.`,
        act: () => this.app.change({ without: [] }),
      },
      {
        at: "panel-ablated",
        title: "Take one away",
        text: `${name} is nearest to this sample. Now every component that saw it is dark. The rest have never seen it, so what they draw from the same noise is what would have been drawn without it. No retraining, and no approximation.`,
        act: () => this.app.change({ without: [near] }),
      },
      {
        at: "panel-null",
        title: "Compare with the null",
        text: `Losing components moves a picture by itself. So there is always a null beside it: as many components dark, but nobody removed. Only what goes beyond the null speaks of ${name}.`,
        act: () => this.app.change({ without: [near] }),
      },
      {
        at: "wall-heading",
        title: "Your turn",
        text: `Remove several together until no component is left, ask what this sample depends on most, try new noise. The address holds what you see, so a link shows it to others.`,
        act: () => {},
      },
    ];
  }

  /** @param {number} number */
  go(number) {
    const steps = this.steps(),
      step = steps[number];
    this.at = number;
    this.open = true;
    step.act();
    const last = number + 1 === steps.length;
    const button = (/** @type {string} */ text, /** @type {() => void} */ onclick, kind = "quiet") =>
      h("button", { type: "button", class: kind, onclick }, text);
    const next = button(last ? "Done" : "Next", () => (last ? this.close() : this.go(number + 1)), "strong");
    this.box.replaceChildren(
      h("p", { class: "label" }, `${number + 1} of ${steps.length}`),
      h("h2", { id: "tour-title" }, step.title),
      h("p", {}, step.text),
      h(
        "div",
        { class: "tour-buttons" },
        ...(number ? [button("Back", () => this.go(number - 1))] : []),
        button("Close", () => this.close()),
        next,
      ),
    );
    this.box.hidden = false;
    for (const lit of document.querySelectorAll(".toured")) lit.classList.remove("toured");
    get(step.at).classList.add("toured");
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    get(step.at).scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
    next.focus({ preventScroll: true });
  }

  close() {
    this.open = false;
    this.box.hidden = true;
    for (const lit of document.querySelectorAll(".toured")) lit.classList.remove("toured");
    get("tour-start").focus({ preventScroll: true });
  }
}
