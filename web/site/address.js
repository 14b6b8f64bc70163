/**
 * What is shown, as the address tells it after '#': the seed, who is removed, which null, and the step if one was chosen.
 *
 * @typedef {{seed: number, without: number[], spare: number, step: number | null}} View
 */

/** @param {string} hash @param {import("./site.js").Site} site @returns {View} */
export function readView(hash, site) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const whole = (/** @type {string} */ name) => {
    const text = values.get(name);
    return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
  };
  const rows = new Map(site.units.map((unit, row) => [unit.id, row]));
  const named = (values.get("without") ?? "").split(",").map(decode);
  const without = [...new Set(named)].flatMap((id) => rows.get(id) ?? []);
  const step = whole("step");
  return {
    seed: whole("seed") ?? site.seeds[0],
    without,
    spare: whole("spare") ?? 0,
    step: step !== null && step <= site.manifest.steps ? step : null,
  };
}

/** @param {View} view @param {import("./site.js").Site} site @returns {string} */
export function writeView(view, site) {
  const values = new URLSearchParams({ seed: String(view.seed) });
  if (view.without.length) {
    // ids may hold commas, which part them here, so each is encoded before all are
    values.set("without", view.without.map((unit) => encodeURIComponent(site.units[unit].id)).join(","));
  }
  if (view.spare) values.set("spare", String(view.spare));
  if (view.step !== null) values.set("step", String(view.step));
  return "#" + values.toString().replaceAll("%2C", ",");
}

function decode(/** @type {string} */ text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
