/** The three large pictures and the steps: with everyone, without the removed, and the null; always the last two together. */

import { isFinished } from "../trajectories.js";
import { get, h, many, paint, picture } from "./dom.js";

const PLAY = 1200; // milliseconds from the noise to the end at the fastest, so that eyes can follow
const STORED = "stored (exact)",
  HERE = "redrawn here",
  THERE = "redrawn by the server";

/** @typedef {"factual" | "ablated" | "null"} Role */
/** @type {Role[]} */
const ROLES = ["factual", "ablated", "null"];

export class Stage {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    this.panels = Object.fromEntries(ROLES.map((role) => [role, new Panel(get(`panel-${role}`), app.site.shape)]));
    this.slider = /** @type {HTMLInputElement} */ (get("step"));
    this.guess = /** @type {HTMLInputElement} */ (get("guess"));
    this.at = 0; // the step shown
    this.began = 0; // when the noise was shown, in milliseconds
    this.drawing = app.drawn;
    /** @type {ReturnType<typeof setTimeout> | null} */
    this.timer = null;
    this.playing = false;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.slider.max = String(app.site.manifest.steps);
    this.slider.addEventListener("input", () => {
      this.playing = false;
      app.change({ step: Number(this.slider.value) });
    });
    this.guess.addEventListener("change", () => this.update());
    get("play").addEventListener("click", () => this.play());
  }

  /** From the noise to the end, at a pace that eyes can follow. */
  play() {
    this.app.change({ step: null });
    this.restart();
    this.playing = true;
    this.tick();
  }

  /** Back to the noise. */
  restart() {
    this.at = 0;
    this.began = performance.now();
  }

  /** Milliseconds that a step is shown for. */
  pace() {
    return (this.still.matches ? 4 * PLAY : PLAY) / this.app.site.manifest.steps;
  }

  /** How many steps of everything in view are drawn; -1 if not even the noise is. */
  available() {
    const drawn = ROLES.flatMap((role) => this.app.drawn[role] ?? []);
    return drawn.length ? Math.min(...drawn.map((one) => one.shots.length - 1)) : -1;
  }

  update() {
    const { app } = this,
      { steps } = app.site.manifest;
    if (this.drawing !== app.drawn) {
      this.drawing = app.drawn;
      this.playing = false;
      this.restart();
      if (this.available() === steps) this.at = steps; // what was drawn before is shown at once
    }
    if (app.view.step !== null) this.at = Math.min(app.view.step, Math.max(0, this.available()));
    else if (this.still.matches && !this.playing) this.at = Math.max(0, this.available() === steps ? steps : 0);
    else this.tick();
    this.show();
  }

  /** A step more is drawn. Whatever else the page shows does not depend on it. */
  drewStep() {
    if (this.available() === 0 || this.app.view.step !== null || this.still.matches) this.update();
    else this.tick();
  }

  /** Show the step whose time has come, if it is drawn, and come back. A browser that is too busy leaves steps out. */
  tick() {
    const { app } = this,
      { steps } = app.site.manifest;
    if (this.timer || app.view.step !== null) return;
    if (this.at >= this.available()) {
      if (this.at >= steps) this.playing = false;
      return;
    }
    this.timer = setTimeout(() => {
      this.timer = null;
      if (app.view.step !== null) return;
      const due = Math.max(this.at + 1, Math.floor((performance.now() - this.began) / this.pace()));
      this.at = Math.min(due, Math.max(0, this.available()));
      this.show();
      this.tick();
    }, this.pace());
  }

  show() {
    const { app } = this,
      { steps } = app.site.manifest;
    this.slider.value = String(this.available() < 0 ? steps : this.at);
    this.slider.setAttribute("aria-valuetext", `step ${this.at} of ${steps}`);
    get("step-text").textContent = `step ${this.available() < 0 ? steps : this.at} of ${steps}`;
    const preview = this.previewed();
    this.panels.factual.show({
      title: "With everyone",
      note: app.site.told(app.view.seed),
      ...this.content("factual"),
    });
    if (preview) {
      this.showPreview(preview);
      return;
    }
    const removal = app.removal();
    const stored = this.storedRows();
    const title = removal ? `Without ${app.names(app.view.without)}` : `Without…`;
    const blank = removal?.empty ? "No component is left to draw it" : `Choose a ${app.site.noun} to remove`;
    this.panels.ablated.show({
      title,
      blank,
      note: removal ? lost(removal.gone) : "",
      ...this.content("ablated"),
      stored: stored?.ablated,
    });
    const nobody = removal && !removal.empty && !removal.null;
    this.panels.null.show({
      title: "Null: nobody removed",
      blank: nobody
        ? "No other set of as many components"
        : removal?.empty
          ? "Nor has it a null"
          : "As many components go dark at random",
      note: removal?.null ? this.nullNote(removal.null) : "",
      ...this.content("null"),
      stored: stored?.null,
    });
  }

  /** What a panel shows of what was drawn. @param {Role} role */
  content(role) {
    const { app } = this,
      trajectory = app.drawn[role],
      exact = role === "factual" ? app.site.factual(app.view.seed) : null;
    if (!trajectory?.shots.length) return { levels: exact, tag: exact ? STORED : "", stored: null };
    const step = Math.min(this.at, trajectory.shots.length - 1),
      shot = trajectory.shots[step];
    const guessing = this.guess.checked && step > 0 && step < trajectory.of;
    return {
      levels: guessing ? shot.guess : shot.levels,
      tag: app.site.manifest.engine === "server" ? THERE : HERE,
      busy: !isFinished(trajectory),
      stored: exact ? Promise.resolve(exact) : null,
    };
  }

  /** The exact pictures that go with a removal, where the universe has both the unit's and the null's. */
  storedRows() {
    const { app } = this,
      { site, view } = app,
      sample = site.sample(view.seed),
      spare = app.removal()?.null?.spare;
    if (sample === null || view.without.length !== 1 || !site.isStored(spare)) return null;
    return {
      ablated: site.without(sample, view.without[0]),
      null: site.underSpare(sample, /** @type {number} */ (spare)),
    };
  }

  /** The unit under the pointer, if its exact picture and a null of it are stored. */
  previewed() {
    const { app } = this,
      { site } = app,
      unit = app.preview,
      sample = site.sample(app.view.seed);
    if (unit === null || sample === null || app.view.without.includes(unit)) return null;
    const gone = site.code.removed([unit]);
    const chosen = gone.every(Boolean) ? null : site.code.nullOf(gone, [unit], app.view.spare);
    return chosen && site.isStored(chosen.spare) ? { unit, sample, gone, chosen } : null;
  }

  /** @param {NonNullable<ReturnType<Stage["previewed"]>>} preview */
  async showPreview({ unit, sample, gone, chosen }) {
    const { site } = this.app;
    const [ablated, spare] = await Promise.all([
      site.without(sample, unit),
      site.underSpare(sample, /** @type {number} */ (chosen.spare)),
    ]);
    if (this.app.preview !== unit) return;
    const title = `Without ${site.units[unit].id}${this.app.view.without.length ? " alone" : ""}`;
    this.panels.ablated.show({ title, levels: ablated, tag: STORED, note: lost(gone), preview: true });
    this.panels.null.show({
      title: "Null: nobody removed",
      levels: spare,
      tag: STORED,
      note: this.nullNote(chosen),
      preview: true,
    });
  }

  /** @param {NonNullable<import("../app.js").Removal["null"]>} chosen */
  nullNote({ gone, units }) {
    const taken = units.length ? `; they are all that saw ${this.app.names(units)}` : "";
    return `${lost(gone)}${taken}`;
  }
}

/** @param {boolean[]} gone */
const lost = (gone) => `${many(gone.filter(Boolean).length, "component")} dark`;

/**
 * @typedef {object} Shown
 * @property {string} title @property {string} [note] @property {string} [blank] said where there is no picture
 * @property {Uint8Array | null} [levels] @property {string} [tag] @property {boolean} [busy] @property {boolean} [preview]
 * @property {Promise<Uint8Array> | null} [stored] the exact picture, shown small beside
 */

/** One large picture with its caption. */
class Panel {
  /** @param {HTMLElement} figure @param {[number, number, number]} shape */
  constructor(figure, shape) {
    this.figure = figure;
    this.shape = shape;
    this.canvas = picture(null, shape, "picture");
    this.title = h("strong");
    this.tag = h("span", { class: "tag" });
    this.blank = h("p", { class: "blank" });
    this.note = h("span", { class: "note" });
    this.small = picture(null, shape, "stored, exact");
    this.exact = h("span", { class: "exact" }, this.small, h("span", {}, STORED));
    this.asked = 0;
    this.told = "";
    /** @type {Uint8Array | null} what the canvas shows */
    this.levels = null;
    /** @type {Uint8Array | null} what the small picture shows */
    this.exactLevels = null;
    const frame = h("div", { class: "frame" }, this.canvas, this.blank);
    frame.style.aspectRatio = `${shape[2]} / ${shape[1]}`;
    figure.append(
      h("figcaption", {}, this.title, this.note),
      frame,
      h("div", { class: "under" }, this.tag, this.exact),
    );
  }

  /**
   * Change what is not shown already: a step changes the picture, and a text that is written again costs a layout.
   * @param {Shown} shown
   */
  show({ title, note = "", blank = "", levels = null, tag = "", busy = false, preview = false, stored = null }) {
    const told = JSON.stringify([title, note, blank, !levels, tag, busy, preview, !stored]);
    if (told !== this.told) {
      this.told = told;
      this.title.textContent = title;
      this.title.title = title;
      this.note.textContent = this.note.title = note;
      this.tag.textContent = preview ? `${tag}, preview` : tag;
      this.tag.hidden = !levels;
      this.tag.dataset.kind = tag === STORED ? "stored" : "here";
      this.figure.dataset.empty = String(!levels);
      this.figure.dataset.busy = String(busy);
      this.canvas.hidden = !levels;
      this.canvas.setAttribute("aria-label", `${title}, ${tag}`);
      this.blank.hidden = Boolean(levels);
      this.blank.textContent = blank;
      this.exact.hidden = !stored || !levels;
    }
    if (levels && !isSame(levels, this.levels)) paint(this.canvas, levels, this.shape);
    this.levels = levels;
    this.showStored(stored);
  }

  /** @param {Promise<Uint8Array> | null} stored */
  async showStored(stored) {
    const asked = ++this.asked;
    try {
      const picture = await stored;
      if (asked !== this.asked) return;
      if (picture && !isSame(picture, this.exactLevels)) paint(this.small, picture, this.shape);
      this.exactLevels = picture;
    } catch {
      if (asked === this.asked) this.exact.hidden = true;
    }
  }
}

/** Whether two pictures are the same part of the same memory. @param {Uint8Array} one @param {Uint8Array | null} other */
const isSame = (one, other) => one.buffer === other?.buffer && one.byteOffset === other.byteOffset;
