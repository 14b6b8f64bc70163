/** Ways in: questions a visitor can ask with one click, and their answers. */

import { lastOf } from "../trajectories.js";
import { get, h, listed, many, picture, rate } from "./dom.js";

const SHOWN = 6; // units in an answer
const BATCH = 8; // trajectories drawn together when everything is drawn here
const SPARES = 39; // nulls drawn here: the smallest p is then 1 in 40

/**
 * @typedef {{unit: number, distance: number | null, p: number | null, q: number | null}} Row
 * @typedef {import("../site.js").Witness} Witness
 */

export class Answers {
  /** @param {import("../app.js").App} app */
  constructor(app) {
    this.app = app;
    this.box = get("answer");
    /** @type {AbortController | null} */
    this.sweeping = null;
    this.asked = "";
    const { stored, noun } = app.site;
    const way = (/** @type {string} */ id, /** @type {string} */ text, /** @type {() => void} */ onclick) =>
      h("button", { type: "button", class: "way", id, onclick }, text);
    const ways = [
      way("way-most", `Which ${noun} does this sample depend on most?`, () => this.most()),
      stored?.tests && way("way-nobody", "Find a sample that depends on nobody", () => this.nobody()),
      way("way-everywhere", "Remove everywhere", () => document.dispatchEvent(new CustomEvent("everywhere"))),
    ];
    get("ways").append(...ways.flatMap((button) => button || []));
  }

  update() {
    const { view } = this.app;
    const everywhere = /** @type {HTMLButtonElement} */ (get("way-everywhere"));
    everywhere.textContent = view.without.length
      ? `Remove ${this.app.names(view.without)} everywhere`
      : "Remove everywhere: choose whom first";
    everywhere.disabled = !view.without.length || Boolean(this.app.removal()?.empty);
    if (this.asked === "most" && this.box.dataset.seed !== String(view.seed)) this.close();
    for (const button of this.box.querySelectorAll("[data-unit]")) {
      button.setAttribute("aria-pressed", String(view.without.includes(Number(button.getAttribute("data-unit")))));
    }
  }

  close() {
    this.sweeping?.abort();
    this.asked = "";
    this.box.hidden = true;
  }

  /** @param {string} asked @param {string} heading @param {...(Node | string | false | null)} content */
  answer(asked, heading, ...content) {
    this.asked = asked;
    this.box.hidden = false;
    this.box.dataset.seed = String(this.app.view.seed);
    const close = h(
      "button",
      { type: "button", class: "quiet close", "aria-label": "Close the answer", onclick: () => this.close() },
      "×",
    );
    this.box.replaceChildren(
      h("div", { class: "answer-head" }, h("h2", {}, heading), close),
      ...content.flatMap((part) => part || []),
    );
  }

  /** Which unit the sample depends on most: from the universe where there is one, else by drawing them all. */
  most() {
    const { site, view } = this.app;
    if (site.witness && site.seeds.includes(view.seed)) {
      this.recognised(site.witness);
      return;
    }
    this.sweep();
  }

  /** Whom the components recognise in this sample, by the witness test. @param {Witness} witness */
  recognised(witness) {
    const { site, view } = this.app,
      sample = site.sample(view.seed);
    const rows = site.units.map((_, unit) => ({
      unit,
      distance: sample === null ? null : (site.test(sample, unit)?.distance ?? null),
      ...(site.recognised(view.seed, unit) ?? { p: 1, q: 1 }),
    }));
    rows.sort((a, b) => a.p - b.p || (b.distance ?? 0) - (a.distance ?? 0));
    const marked = rows.filter(({ q }) => q <= witness.level);
    const names = listed(
      marked.map(({ unit }) => site.units[unit].id),
      4,
    );
    const verdict = marked.length
      ? `The components recognise ${names}: ${marked.length} of ${many(rows.length, site.noun)}, at a false discovery rate of ${witness.level}.`
      : `The components recognise nobody here beyond chance (smallest q = ${rate(Math.min(...rows.map(({ q }) => q)))}).` +
        (witness.least_q > witness.level ? " This code has too few unused codewords to single anybody out." : "") +
        " The first ones:";
    this.answer(
      "most",
      `What seed ${view.seed} depends on`,
      h("p", { class: "verdict" }, verdict),
      h("ol", { class: "ranking" }, ...rows.slice(0, SHOWN).map((row) => h("li", {}, this.entry(row)))),
      h(
        "p",
        { class: "hint" },
        "Witness test: do the components that saw it denoise this sample towards it more than the others do? " +
          "Remove one to see what it changes, beside its null.",
      ),
    );
  }

  /** @param {Row[]} rows @param {string} basis */
  show(rows, basis) {
    const { app } = this,
      { site, view } = app,
      level = site.stored?.level ?? 0.1;
    rows.sort((a, b) => (a.p ?? 1) - (b.p ?? 1) || (b.distance ?? 0) - (a.distance ?? 0));
    const marked = rows.filter((row) => row.q !== null && row.q <= level);
    const names = listed(
      marked.map((row) => site.units[row.unit].id),
      4,
    );
    const untested = rows.every((row) => row.p === null);
    const verdict = untested
      ? "Without nulls nobody can tell; these moved the picture farthest."
      : marked.length
        ? `${marked.length} of ${many(rows.length, site.noun)} ${marked.length === 1 ? "stands" : "stand"} out at a false discovery rate of ${level}: ${names}.`
        : `None of ${many(rows.length, site.noun)} stands out from the loss of components alone (smallest q = ${rate(Math.min(...rows.map((row) => row.q ?? 1)))}). The first ones:`;
    this.answer(
      "most",
      `What seed ${view.seed} depends on`,
      h("p", { class: "verdict" }, verdict),
      h("ol", { class: "ranking" }, ...rows.slice(0, SHOWN).map((row) => h("li", {}, this.entry(row)))),
      h("p", { class: "hint" }, basis),
    );
  }

  /** @param {Row} row */
  entry({ unit, distance, p, q }) {
    const { app } = this,
      { site } = app;
    const numbers = [
      distance !== null && `moved ${distance.toFixed(1)}`,
      p !== null && `p ${rate(p)} · q ${rate(q ?? 1)}`,
    ]
      .filter(Boolean)
      .join(" · ");
    return h(
      "button",
      {
        type: "button",
        class: "entry",
        "data-unit": unit,
        "aria-pressed": "false",
        title: `Remove ${site.units[unit].id}`,
        onclick: () =>
          app.change({ without: app.view.without.length === 1 && app.view.without[0] === unit ? [] : [unit] }),
      },
      picture(site.image(site.firstImage[unit]), site.shape),
      h("span", {}, h("strong", {}, site.units[unit].id), h("small", {}, numbers)),
    );
  }

  /** Draw every removal of this sample and many nulls here, then rank them by distance. */
  async sweep() {
    const { app } = this,
      { site, view, trajectories } = app;
    if (!trajectories) {
      this.answer("most", "Not yet", h("p", {}, "The ensemble is still opening; ask again in a moment."));
      return;
    }
    this.sweeping?.abort();
    this.sweeping = new AbortController();
    const { signal } = this.sweeping,
      { code } = site;
    const alive = (/** @type {boolean[]} */ gone) => gone.map((dark) => !dark);
    const units = code.words.flatMap((word, unit) => (word.every(Boolean) ? [] : [unit]));
    const spares = code.spares.slice(0, SPARES);
    const rows = [...units.map((unit) => alive(code.words[unit])), ...spares.map(alive)].map((left) => ({
      seed: view.seed,
      alive: left,
    }));
    const bar = h("progress", { max: rows.length, value: 0, "aria-label": "Drawn so far" });
    this.answer(
      "most",
      `Drawing every removal of seed ${view.seed}`,
      h("p", {}, `${many(units.length, site.noun)} and ${many(spares.length, "null")}.`),
      bar,
    );
    try {
      const everyone = { seed: view.seed, alive: code.words[0].map(() => true) };
      const first = trajectories.draw([everyone], { signal, urgent: false });
      await first.done;
      const factual = lastOf(first.trajectories[0]);
      /** @type {number[]} */
      const distances = [];
      for (let at = 0; at < rows.length; at += BATCH) {
        const part = trajectories.draw(rows.slice(at, at + BATCH), { signal, urgent: false });
        await part.done;
        distances.push(...part.trajectories.map((one) => site.distance(factual, lastOf(one))));
        bar.value = distances.length;
      }
      const nulls = distances.slice(units.length);
      const ranked = units.map((unit, k) => ({
        unit,
        distance: distances[k],
        p: nulls.length ? (1 + nulls.filter((one) => one >= distances[k]).length) / (1 + nulls.length) : null,
        q: null,
      }));
      this.show(withQ(ranked), `plain distance against ${many(nulls.length, "null")}, all drawn here`);
    } catch (error) {
      if (/** @type {Error} */ (error).name === "AbortError") return;
      this.answer("most", "Drawing stopped", h("p", { role: "alert" }, /** @type {Error} */ (error).message));
    }
  }

  /** Go to the stored sample that removals move least against nulls, and say how much that means. */
  nobody() {
    const { app } = this,
      { site } = app,
      { stored } = site;
    if (!stored) return;
    const samples = site.seeds.map((seed, sample) => {
      const tests = site.units.map((_, unit) => site.test(sample, unit));
      const recognised = site.units.map((_, unit) => site.recognised(seed, unit)?.q ?? 1);
      return {
        seed,
        witness: Math.min(...recognised),
        q: Math.min(...tests.map((test) => test?.q ?? 1)),
        radius: Math.max(...tests.map((test) => test?.distance ?? 0)),
        p: stored.radius_p?.[sample] ?? 1,
      };
    });
    const level = stored.level ?? 0.1,
      needed = site.nullsNeeded();
    const free = samples.filter(({ q, witness }) => q > level && witness > (site.witness?.level ?? 0));
    const best = [...(free.length ? free : samples)].sort(
      (a, b) => Number(b.radius === 0) - Number(a.radius === 0) || b.p - a.p || b.q - a.q || b.witness - a.witness,
    )[0];
    const testified = site.witness
      ? `, and the components recognise nobody in it (smallest q = ${rate(best.witness)})`
      : "";
    app.change({ seed: best.seed, without: [] });
    const text =
      best.radius === 0
        ? `Seed ${best.seed}: no single removal changes a pixel of it. It is unattributable.`
        : free.length
          ? `Seed ${best.seed}: of all removals, the one that moves it farthest (${best.radius.toFixed(1)}) goes no farther than nulls go (p = ${rate(best.p)}), and nobody stands out (smallest q = ${rate(best.q)})${testified}.`
          : `There is none: in each of ${many(samples.length, "stored sample")} somebody stands out or is recognised by the components. Seed ${best.seed} comes nearest (smallest q of removal = ${rate(best.q)}, of the witness test = ${rate(best.witness)}).`;
    const limit = needed
      ? `With ${many(stored.spares.length, "null")} no single ${site.noun} could stand out among ${site.units.length} in any sample; it takes ${needed}.`
      : `Nobody stands out in ${free.length} of ${many(samples.length, "stored sample")}.`;
    this.answer(
      "nobody",
      "A sample that depends on nobody",
      h("p", { class: "verdict" }, text),
      best.radius > 0 &&
        h(
          "p",
          { class: "hint" },
          `${limit} That is no proof that nobody mattered, only that a removal cannot be told from the loss of components.`,
        ),
    );
  }
}

/** Benjamini and Hochberg's q for rows with p. @param {Row[]} rows @returns {Row[]} */
export function withQ(rows) {
  const known = rows.flatMap((row) => (row.p === null ? [] : [{ row, p: row.p }])).sort((a, b) => b.p - a.p);
  let least = 1;
  known.forEach(({ row, p }, k) => {
    least = Math.min(least, (p * known.length) / (known.length - k));
    row.q = least;
  });
  return rows;
}
