// What a map's scale ends at: its largest value at its image's size, of a fine map its 99th percentile.

import { levelValue, peakResampling, resample, TOP } from "./scaling.js";

const PERCENTILE = 0.99;

/** Return the largest magnitude of a map at its image's size.
 * @param {Uint8Array} levels
 * @param {number} begin
 * @param {number[]} shape [h, w]
 * @param {import("./scaling.js").Levels} known
 * @param {number[]} size [H, W]
 * @returns {number} */
export function peakOf(levels, begin, shape, known, size) {
  const down = peakResampling(shape[0], size[0]);
  const across = peakResampling(shape[1], size[1]);
  const out = new Int32Array(down.length * across.length);
  resample(levels, begin, shape[1], known.table, down, across, out);
  let [least, most] = [TOP, 0];
  for (const value of out) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return Math.max(Math.abs(known.low + least * known.unit), Math.abs(known.low + most * known.unit));
}

/** Return the 99th percentile of a map's magnitudes that are not 0, where few pixels come near the largest.
 * @param {Uint8Array} levels
 * @param {number} begin
 * @param {number} count
 * @param {import("./scaling.js").Levels} known
 * @returns {number} 0 where all of them are 0. */
export function percentileOf(levels, begin, count, known) {
  const counts = histogram(levels, begin, count);
  const magnitudes = Float64Array.from(counts, (_, level) => Math.abs(levelValue(known, level)));
  const order = [...counts.keys()].filter((level) => counts[level] && magnitudes[level] > 0);
  if (known.low < 0) order.sort((a, b) => magnitudes[a] - magnitudes[b]);
  let left = Math.ceil(PERCENTILE * order.reduce((sum, level) => sum + counts[level], 0));
  for (const level of order) {
    left -= counts[level];
    if (left <= 0) return magnitudes[level];
  }
  return 0;
}

/** Four counts in turns, since two equal neighbors would wait for each other. */
function histogram(levels, begin, count) {
  const first = new Uint32Array(256);
  const second = new Uint32Array(256);
  const third = new Uint32Array(256);
  const fourth = new Uint32Array(256);
  const end = begin + count;
  let place = begin;
  for (; place + 3 < end; place += 4) {
    first[levels[place]]++;
    second[levels[place + 1]]++;
    third[levels[place + 2]]++;
    fourth[levels[place + 3]]++;
  }
  for (; place < end; place++) first[levels[place]]++;
  return first.map((times, level) => times + second[level] + third[level] + fourth[level]);
}
