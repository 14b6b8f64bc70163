/**
 * Trajectories that were drawn, kept so that nothing is drawn twice: a step's picture and the guess at that step.
 *
 * @typedef {{levels: Uint8Array, guess: Uint8Array}} Shot
 * @typedef {{shots: Shot[], of: number, failed: string | null}} Trajectory  `shots[k]` is after k steps, [0] the noise
 */

const KEPT = 60; // trajectories; one of 25 steps of a colour picture of 32 x 32 takes 160 kB

/** Which trajectory a seed and a set of surviving components make. @param {number} seed @param {boolean[]} alive */
const keyOf = (seed, alive) => `${seed}:${alive.map(Number).join("")}`;

export class Trajectories {
  /** @param {import("./engine/client.js").Engine} engine @param {number} size values per picture @param {number} steps */
  constructor(engine, size, steps) {
    this.engine = engine;
    this.size = size;
    this.steps = steps;
    /** @type {Map<string, Trajectory>} */
    this.kept = new Map();
  }

  /** A finished trajectory, if it was drawn. @param {number} seed @param {boolean[]} alive */
  finished(seed, alive) {
    const found = this.kept.get(keyOf(seed, alive));
    return found && isFinished(found) ? found : null;
  }

  /**
   * Draw some rows in one batch; those that were drawn before are taken from what is kept.
   * @param {import("./engine/client.js").Row[]} rows
   * @param {{urgent?: boolean, signal?: AbortSignal, onFrame?: () => void}} options
   * @returns {{trajectories: Trajectory[], done: Promise<number>}} the first grow until `done`, which gives milliseconds
   */
  draw(rows, { urgent = true, signal, onFrame = () => {} }) {
    /** @type {Map<string, {row: import("./engine/client.js").Row, trajectory: Trajectory}>} */
    const missing = new Map();
    const trajectories = rows.map((row) => {
      const key = keyOf(row.seed, row.alive);
      const there = this.finished(row.seed, row.alive) ?? missing.get(key)?.trajectory;
      if (there) return there;
      const trajectory = { shots: [], of: this.steps, failed: null };
      missing.set(key, { row, trajectory });
      return trajectory;
    });
    if (!missing.size) return { trajectories, done: Promise.resolve(0) };
    const batch = [...missing.values()];
    const done = this.engine.draw(
      batch.map(({ row }) => row),
      {
        urgent,
        signal,
        onFrame: (frame) => {
          batch.forEach(({ trajectory }, r) => {
            const cut = (/** @type {Uint8Array} */ levels) => levels.subarray(r * this.size, (r + 1) * this.size);
            trajectory.shots.push({ levels: cut(frame.levels), guess: cut(frame.guess) });
          });
          onFrame();
        },
      },
    );
    return { trajectories, done: done.then((ms) => (this.keep(missing), ms)) };
  }

  /** @param {Map<string, {trajectory: Trajectory}>} drawn */
  keep(drawn) {
    for (const [key, { trajectory }] of drawn) this.kept.set(key, trajectory);
    for (const key of this.kept.keys()) {
      if (this.kept.size <= KEPT) break;
      this.kept.delete(key);
    }
  }
}

/** @param {Trajectory} trajectory */
export const isFinished = (trajectory) => trajectory.shots.length === trajectory.of + 1;

/** The finished picture. @param {Trajectory} trajectory */
export const lastOf = (trajectory) => trajectory.shots[trajectory.of].levels;
