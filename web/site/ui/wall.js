/** The wall of units: a click removes one or puts it back; a unit of several pictures folds out. */

import { get, h, many, picture } from "./dom.js";

const FEW = 30; // up to so many units need no search field

export class Wall {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    this.wall = get("wall");
    const { site } = app,
      { units, noun } = site;
    get("wall-heading").textContent = noun === "picture" ? "Training pictures" : `Training units`;
    const points = matchMedia("(hover: hover)").matches && site.stored;
    this.hint = `Click a ${noun} to remove it.${points ? " Pointing at one previews the stored picture." : ""}`;
    this.tiles = units.map((_, unit) => this.tile(unit));
    this.wall.classList.toggle("groups", noun === "unit");
    this.wall.replaceChildren(...this.tiles.map(({ tile }) => tile));
    this.picks = this.tiles.map(({ pick }) => pick);
    this.current = 0;
    this.wall.addEventListener("keydown", (event) => this.move(event));
    this.wall.addEventListener("focusin", (event) => {
      const at = this.picks.indexOf(/** @type {HTMLButtonElement} */ (event.target));
      if (at >= 0) this.current = at;
      this.setTabStops();
    });
    const filter = /** @type {HTMLInputElement} */ (get("filter"));
    filter.hidden = units.length <= FEW;
    filter.addEventListener("input", () => this.filter(filter.value));
    /** @type {number | null} a component whose units are pointed out */
    this.pointed = null;
    document.addEventListener("point", (event) => {
      this.pointed = /** @type {CustomEvent} */ (event).detail;
      this.update();
    });
    this.setTabStops();
  }

  /** @param {number} unit */
  tile(unit) {
    const { app } = this,
      { site } = app,
      { id, images } = site.units[unit];
    const first = site.firstImage[unit];
    const shown = Array.from({ length: images === 1 ? 1 : Math.min(4, images) }, (_, k) =>
      picture(site.image(first + k), site.shape),
    );
    const pick = h(
      "button",
      {
        type: "button",
        class: `pick ${shown.length > 1 ? "several" : ""}`,
        title: id,
        onclick: () => app.toggle(unit),
        onpointerenter: (/** @type {PointerEvent} */ event) => event.pointerType === "mouse" && app.setPreview(unit),
        onpointerleave: () => app.setPreview(null),
        onfocus: () => pick.matches(":focus-visible") && app.setPreview(unit),
        onblur: () => app.setPreview(null),
      },
      ...shown,
    );
    const fold =
      images > 1 &&
      h(
        "button",
        {
          type: "button",
          class: "fold",
          "aria-expanded": "false",
          "aria-label": `All ${many(images, "picture")} of ${id}`,
          onclick: () => this.fold(unit),
        },
        String(images),
      );
    const name = site.noun === "unit" && h("span", { class: "name", "aria-hidden": "true", title: id }, id);
    return { tile: h("div", { class: "tile", "data-unit": unit }, pick, fold, name), pick, fold: fold || null };
  }

  /** Show all pictures of a unit below its row, or put them away. @param {number} unit */
  fold(unit) {
    const { site } = this.app,
      { tile, fold } = this.tiles[unit];
    const there = tile.nextElementSibling;
    if (there?.classList.contains("folded")) {
      there.remove();
      fold?.setAttribute("aria-expanded", "false");
      return;
    }
    const first = site.firstImage[unit],
      { images, id } = site.units[unit];
    const all = Array.from({ length: images }, (_, k) =>
      picture(site.image(first + k), site.shape, `${id}, picture ${k + 1}`),
    );
    tile.after(
      h(
        "div",
        { class: "folded", role: "group", "aria-label": `Pictures of ${id}` },
        h("p", {}, `${many(images, "picture")} of ${id}, removed together`),
        h("div", {}, ...all),
      ),
    );
    fold?.setAttribute("aria-expanded", "true");
  }

  /** Arrow keys walk over the wall. @param {KeyboardEvent} event */
  move(event) {
    const shown = this.picks.filter((_, unit) => !this.tiles[unit].tile.hidden);
    const at = shown.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    if (at < 0) return;
    const top = (/** @type {HTMLElement} */ pick) => /** @type {HTMLElement} */ (pick.parentElement).offsetTop;
    const columns = Math.max(
      1,
      shown.findIndex((pick) => top(pick) !== top(shown[0])),
    );
    const by = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: columns,
      ArrowUp: -columns,
      Home: -at,
      End: shown.length - 1 - at,
    }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    shown[Math.min(shown.length - 1, Math.max(0, at + by))].focus();
  }

  /** Tab reaches one tile, the arrows the others. */
  setTabStops() {
    this.picks.forEach((pick, unit) => pick.setAttribute("tabindex", unit === this.current ? "0" : "-1"));
  }

  /** @param {string} text part of a name */
  filter(text) {
    const wanted = text.trim().toLowerCase();
    let first = -1;
    this.tiles.forEach(({ tile }, unit) => {
      tile.hidden = !this.app.site.units[unit].id.toLowerCase().includes(wanted);
      if (!tile.hidden && first < 0) first = unit;
      if (tile.hidden && tile.nextElementSibling?.classList.contains("folded")) this.fold(unit);
    });
    if (first >= 0 && this.tiles[this.current].tile.hidden) this.current = first;
    this.setTabStops();
    get("wall-hint").textContent = first < 0 ? `No name has “${text}” in it.` : this.hint;
  }

  update() {
    const { app } = this,
      { code, units } = app.site,
      { without } = app.view,
      removal = app.removal();
    const also = new Set(removal && !removal.empty ? code.goneWith(removal.gone) : []);
    if (!get("wall-hint").textContent) get("wall-hint").textContent = this.hint;
    this.tiles.forEach(({ tile, pick }, unit) => {
      const removed = without.includes(unit),
        gone = !removed && also.has(unit);
      const dim = this.pointed !== null && !code.words[unit][this.pointed];
      tile.classList.toggle("removed", removed);
      tile.classList.toggle("gone", gone);
      tile.classList.toggle("dim", dim);
      pick.setAttribute("aria-pressed", String(removed));
      pick.setAttribute("aria-label", `Remove ${units[unit].id}${gone ? " (removed with the others already)" : ""}`);
    });
  }
}
