// On which scale maps are shown, and what stands at the ends of the color bar.

import { DIVERGING } from "./palette.js";

const largestByPeaks = new WeakMap();

/** Return what a map's own values are multiplied by, and what they are cut at. A map that is stronger than the largest,
 * as before training it may be, has its own scale.
 * @param {"map"|"sample"|"shared"} scale
 * @param {import("./maps.js").Measure} measure
 * @param {boolean} isFine
 * @param {number|undefined} largest The raw value that becomes 1; undefined while it is not known.
 * @returns {{factor: number, most: number}} */
export function shownScale(scale, measure, isFine, largest) {
  if (scale === "map" || largest === undefined) return { factor: 1, most: 1 };
  const factor = largest > 0 ? Math.min(1, measure.top / largest) : 0;
  return { factor, most: isFine ? factor : 1 };
}

/** Return the raw value that is 1 for a sample, or for all of them; random weights may give values of any size, so that
 * the initial network does not count.
 * @param {object} about
 * @param {Object<string, ([number, number]|null)[]>} peaks Of each look: of each map the largest value and magnitude.
 * @param {"map"|"sample"|"shared"} scale
 * @param {number} position
 * @param {boolean} isSigned Whether magnitudes count.
 * @returns {number|undefined} */
export function largestOf(about, peaks, scale, position, isSigned) {
  if (scale === "map") return undefined;
  if (!largestByPeaks.has(peaks)) largestByPeaks.set(peaks, largestPeaks(about, peaks));
  return largestByPeaks.get(peaks).get(scale === "shared" ? null : position)?.[Number(isSigned)];
}

function largestPeaks(about, peaks) {
  const known = about.looks.filter((look) => Object.hasOwn(peaks, look.key));
  const trained = known.filter((look) => look.epoch !== null);
  const largest = new Map();
  for (const look of trained.length ? trained : known) {
    look.positions.forEach((position, row) => {
      const own = peaks[look.key][row] ?? [0, 0];
      for (const whose of [position, null]) {
        const before = largest.get(whose) ?? [0, 0];
        largest.set(
          whose,
          own.map((peak, kind) => Math.max(peak, before[kind])),
        );
      }
    });
  }
  return largest;
}

/** Return the words at the two ends of the color bar.
 * @param {"map"|"sample"|"shared"} scale
 * @param {boolean[]} fine Of each method that is shown.
 * @param {string} colors
 * @returns {string[]} */
export function scaleWords(scale, fine, colors) {
  const top = fine.length && fine.every(Boolean) ? "99th percentile" : "maximum";
  const whose = { map: "each map's", sample: "the sample's", shared: "all samples'" }[scale];
  const span = scale === "map" ? "" : " of all epochs";
  return [colors === DIVERGING ? "− the same" : "0", `${whose} ${top}${span}`];
}
