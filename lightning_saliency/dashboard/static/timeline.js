// The places of the scrubber: the looks of one run, or of several side by side.

/** @typedef {{value: number, looks: (object|undefined)[]}} Place
 * Where it stands, and of each run the look that is shown there. */

/** Return the places of the scrubber in their order.
 * @param {object[][]} runs Of each run its looks.
 * @param {"epoch"|"step"} align By what looks of several runs stand together.
 * @returns {Place[]} */
export function makeTimeline(runs, align) {
  const values = runs.map((looks) => looks.map((look) => placeValue(looks, look, align)));
  const all = [...new Set(values.flat())].sort((a, b) => a - b);
  return all.map((value) => ({
    value,
    looks: runs.map((looks, run) => looks[values[run].findLastIndex((own) => own <= value)] ?? looks[0]),
  }));
}

function placeValue(looks, look, align) {
  if (look.epoch === null) return -1;
  if (align === "step") return look.step;
  const ofEpoch = looks.filter((other) => other.epoch === look.epoch);
  return look.epoch + (ofEpoch.indexOf(look) + 1) / ofEpoch.length - 1;
}

/** Return a look as an address names it.
 * @param {object} look
 * @returns {string} */
export function lookName(look) {
  return look.epoch === null ? "initial" : `${look.epoch}-${look.step}`;
}

/** Return the index of the place that an address names: the last one for null, the nearest one if it is gone.
 * @param {Place[]} timeline
 * @param {string|null} name
 * @returns {number} */
export function placeOf(timeline, name) {
  const exact = timeline.findIndex(({ looks }) => looks.some((look) => look && lookName(look) === name));
  if (exact >= 0 || name === null) return exact >= 0 ? exact : timeline.length - 1;
  const [epoch, step] = name === "initial" ? [-1, -1] : name.split("-").map(Number);
  if (!Number.isFinite(epoch)) return timeline.length - 1;
  const later = timeline.findIndex(({ looks }) => looks.some((look) => look && isAfter(look, epoch, step)));
  return later < 0 ? timeline.length - 1 : later;
}

function isAfter(look, epoch, step) {
  return look.epoch !== null && (step === undefined ? look.epoch >= epoch : look.step >= step);
}
