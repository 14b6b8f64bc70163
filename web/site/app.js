/** The page: what is shown, what is asked of the engine, and who is told when either changes. */

import { readView, writeView } from "./address.js";
import { openEngine } from "./engine/client.js";
import { Site } from "./site.js";
import { Trajectories, isFinished, lastOf } from "./trajectories.js";
import { Answers } from "./ui/answers.js";
import { get, listed, many } from "./ui/dom.js";
import { Everywhere } from "./ui/everywhere.js";
import { Findings } from "./ui/findings.js";
import { Lamps } from "./ui/lamps.js";
import { Stage } from "./ui/stage.js";
import { Strip } from "./ui/strip.js";
import { Tour } from "./ui/tour.js";
import { Wall } from "./ui/wall.js";

/**
 * @typedef {import("./trajectories.js").Trajectory} Trajectory
 * @typedef {{factual: Trajectory | null, ablated: Trajectory | null, null: Trajectory | null}} Drawn
 * @typedef {{gone: boolean[], null: ReturnType<import("./code.js").Code["nullOf"]>, empty: boolean}} Removal
 *   components gone, the null that goes with it, and whether none is left
 */

export class App {
  /** @param {Site} site */
  constructor(site) {
    this.site = site;
    this.view = readView(location.hash, site);
    /** @type {Trajectories | null} */
    this.trajectories = null;
    /** @type {Drawn} */
    this.drawn = { factual: null, ablated: null, null: null };
    /** @type {string | null} what went wrong, in words */
    this.problem = null;
    this.milliseconds = 0;
    /** @type {number | null} a unit whose stored picture is previewed */
    this.preview = null;
    this.cancelling = new AbortController();
    this.stage = new Stage(this);
    this.parts = [
      new Strip(this),
      this.stage,
      new Lamps(this),
      new Findings(this),
      new Wall(this),
      new Answers(this),
      new Everywhere(this),
    ];
    this.tour = new Tour(this);
    addEventListener("hashchange", () => this.change(readView(location.hash, site)));
    addEventListener("keydown", (event) => {
      const typing = event.target instanceof HTMLInputElement && event.target.type === "search";
      if (event.key === "Escape" && !typing && !this.tour.open && this.view.without.length)
        this.change({ without: [] });
    });
  }

  /** The removal in view. @returns {Removal | null} null if nobody is removed */
  removal() {
    const { without, spare } = this.view;
    if (!without.length) return null;
    const { code } = this.site;
    const gone = code.removed(without);
    const empty = gone.every(Boolean);
    return { gone, empty, null: empty ? null : code.nullOf(gone, without, spare) };
  }

  /** Show something else. @param {Partial<import("./address.js").View>} changes */
  change(changes) {
    const before = writeView(this.view, this.site);
    this.view = { ...this.view, ...changes };
    const address = writeView(this.view, this.site);
    if (location.hash !== address) history.replaceState(null, "", address);
    const redrawn = "seed" in changes || "without" in changes || "spare" in changes;
    if (before !== address && redrawn) {
      if (!("step" in changes)) this.view.step = null;
      this.redraw();
    }
    this.update();
  }

  /** Remove a unit, or put it back. @param {number} unit */
  toggle(unit) {
    const { without } = this.view;
    this.change({ without: without.includes(unit) ? without.filter((one) => one !== unit) : [...without, unit] });
  }

  /** Preview a unit's stored picture. @param {number | null} unit */
  setPreview(unit) {
    if (this.preview === unit) return;
    this.preview = unit;
    this.update();
  }

  /** Names of units, for sentences. @param {number[]} units */
  names(units) {
    return listed(units.map((unit) => this.site.units[unit].id));
  }

  /** Tell every part of the page. */
  update() {
    for (const part of this.parts) part.update();
  }

  /** Draw what is in view: the factual trajectory, and a removal with its null, in one batch. */
  async redraw() {
    this.cancelling.abort();
    this.cancelling = new AbortController();
    const { signal } = this.cancelling,
      removal = this.removal();
    this.drawn = { factual: null, ablated: null, null: null };
    this.problem = null;
    if (!this.trajectories) return;
    const { seed } = this.view,
      all = this.site.code.words[0].map(() => true);
    const rows = [{ seed, alive: all }];
    if (removal && !removal.empty) {
      rows.push({ seed, alive: removal.gone.map((gone) => !gone) });
      if (removal.null) rows.push({ seed, alive: removal.null.gone.map((gone) => !gone) });
    }
    const { trajectories, done } = this.trajectories.draw(rows, { signal, onFrame: () => this.stage.drewStep() });
    this.drawn = { factual: trajectories[0], ablated: trajectories[1] ?? null, null: trajectories[2] ?? null };
    this.update();
    try {
      this.milliseconds = await done;
      this.update();
      this.announce(removal);
    } catch (error) {
      if (/** @type {Error} */ (error).name === "AbortError") return;
      this.problem = `Drawing stopped: ${/** @type {Error} */ (error).message}`;
      this.update();
    }
  }

  /** Whether everything in view is drawn to its end. */
  isFinished() {
    const wanted =
      this.removal() && !this.removal()?.empty ? [this.drawn.factual, this.drawn.ablated] : [this.drawn.factual];
    return wanted.every((trajectory) => trajectory && isFinished(trajectory));
  }

  /** Say what was drawn to those who do not see it. @param {Removal | null} removal */
  announce(removal) {
    const { factual, ablated } = this.drawn;
    if (!removal) {
      get("live").textContent = `Seed ${this.view.seed} redrawn with everyone.`;
    } else if (removal.empty) {
      get("live").textContent = "No component is left.";
    } else if (factual && ablated && isFinished(ablated)) {
      const moved = this.site.distance(lastOf(factual), lastOf(ablated)).toFixed(1);
      get("live").textContent = `Redrawn without ${this.names(this.view.without)}: moved by ${moved}.`;
    }
  }

  /** Open the engine, then draw. */
  async start() {
    this.describe(0);
    this.update();
    try {
      const { manifest, base, size } = this.site;
      const engine = await openEngine(manifest, base, (opened) => this.describe(opened));
      this.trajectories = new Trajectories(engine, size, manifest.steps);
      engine.onmoved = () => this.describe(null, engine.where);
      engine.onmoved();
      document.documentElement.dataset.engine = "open";
      await this.redraw();
    } catch (error) {
      this.problem = `The ensemble cannot run here (${/** @type {Error} */ (error).message}). Stored pictures still work.`;
      this.update();
    }
    document.documentElement.dataset.ready = "yes";
  }

  /** The line under the title. @param {number | null} opened components ready so far; null once all are */
  describe(opened, where = "") {
    const { manifest, units, noun } = this.site;
    const loading = opened !== null && manifest.files.components.length;
    get("about").textContent =
      `${many(manifest.components, "component")}, each trained on a different part of ${many(units.length, noun)}. ` +
      `Remove a ${noun}: every component that saw it goes dark, and the same noise denoises again without them` +
      (loading ? `. Opening ${opened} of ${manifest.components}…` : `${where ? `, ${where}` : ""}.`);
  }
}

/** What the page was made from. @param {Site} site */
function about({ manifest, stored, seeds, noun }) {
  const kind = manifest.kind === "ideal" ? "ideal components" : "components trained by themselves";
  const exact = stored
    ? ` The exact pictures of ${many(stored.samples.length, "sample")} under every removal are stored.`
    : "";
  const guidance = manifest.guidance === undefined ? "" : `, guidance ${manifest.guidance}`;
  return (
    `This run: ${manifest.components} ${kind}, ${many(manifest.units.length, noun)}, ${manifest.sampler} with ${many(manifest.steps, "step")}${guidance}, ` +
    `${many(seeds.length, "seed")}.${exact} Made with ablatable ${manifest.ablatable}; the method is that of Dai and Gifford (arXiv 2406.07908).`
  );
}

/** Say that the page cannot open. @param {unknown} error */
function fail(error) {
  get("about").textContent = `The page could not be opened: ${error instanceof Error ? error.message : error}.`;
}

const base = new URL(".", location.href).href;
if (location.protocol !== "file:") {
  Site.open(base)
    .then((site) => {
      const app = new App(site);
      get("main").setAttribute("aria-busy", "false");
      get("footer").textContent = about(site);
      return app.start();
    })
    .catch(fail);
}
