// The maps of one look and method, as they came, and what is measured of them once.

import { peakOf, percentileOf } from "./peaks.js";
import { levelsOf, PADDING } from "./scaling.js";

const BYTES_OF_A_LEVEL = 3; // with what is kept of it at a cell's size, at most

/** @typedef {object} Maps
 * @property {Float32Array} ranges The minimum and the maximum of each.
 * @property {Uint8Array} levels
 * @property {number[]} begins Where each begins among the levels.
 * @property {number[][]} shapes
 * @property {number[]} tops Of fine maps their 99th percentiles.
 * @property {Map<string, Measure>} measures
 * @property {number} byteLength */

/** @typedef {object} Measure
 * @property {Int32Array} table What the levels stand for; see `levelsOf`.
 * @property {number} low
 * @property {number} unit
 * @property {Float32Array} range Its minimum and maximum.
 * @property {number} gain What values are multiplied by to be at most 1.
 * @property {number} top The raw value that 1 then stands for.
 * @property {number[]} shape The two lengths of what is shown: of a volume, those of its slice.
 * @property {number} begin Where that begins among the levels.
 * @property {number} slice Which of a volume's slices is shown.
 * @property {number} slices How many there are.
 * @property {{key: string, values: Uint16Array|null}} resized Its values at the size of its cell. */

/** Split the bytes of several looks.
 * @param {Uint8Array} bytes
 * @param {{shapes: number[][]}[]} looks Of each the shape of each map.
 * @param {boolean} isFine Whether their percentiles are measured, which takes longest.
 * @returns {Maps[]} */
export function splitMaps(bytes, looks, isFine) {
  let place = 0;
  return looks.map(({ shapes }) => {
    const counts = shapes.map((shape) => shape.reduce((count, length) => count * length, 1));
    const total = counts.reduce((sum, count) => sum + count, 0);
    const rangesEnd = place + 8 * shapes.length;
    if (bytes.length < rangesEnd + total) throw new Error("The maps that came are shorter than the record says.");
    const widest = Math.max(0, ...shapes.map((shape) => shape[shape.length - 1]));
    const levels = new Uint8Array(total + PADDING * widest);
    levels.set(bytes.subarray(rangesEnd, rangesEnd + total));
    const ranges = new Float32Array(bytes.slice(place, rangesEnd).buffer);
    const begins = counts.map((_, index) => counts.slice(0, index).reduce((sum, count) => sum + count, 0));
    place = rangesEnd + 4 * Math.ceil(total / 4);
    const maps = {
      ranges,
      levels,
      begins,
      shapes,
      tops: [],
      measures: new Map(),
      byteLength: BYTES_OF_A_LEVEL * total,
    };
    if (isFine) maps.tops = shapes.map((_, index) => percentileOfMap(maps, index, false));
    return maps;
  });
}

function percentileOfMap(maps, index, isSigned) {
  const [low, high] = maps.ranges.subarray(2 * index, 2 * index + 2);
  const { begin, shape } = planeOf(maps, index);
  return percentileOf(maps.levels, begin, shape[0] * shape[1], levelsOf(low, high, isSigned));
}

/** Measure a map, once.
 * @param {Maps} maps
 * @param {number} index Which of them.
 * @param {number[]} size Of its image.
 * @param {boolean} isFine
 * @param {boolean} isSigned Whether negative values are shown.
 * @returns {Measure} */
export function measureOf(maps, index, size, isFine, isSigned) {
  const key = `${index} ${isSigned}`;
  if (!maps.measures.has(key)) maps.measures.set(key, measured(maps, index, size, isFine, isSigned));
  return maps.measures.get(key);
}

function measured(maps, index, size, isFine, isSigned) {
  const range = maps.ranges.subarray(2 * index, 2 * index + 2);
  const [low, high] = range;
  const view = { ...planeOf(maps, index), range, resized: { key: "", values: null } };
  if (isFine) {
    const top = isSigned ? percentileOfMap(maps, index, true) : maps.tops[index];
    const cut = top > 0 ? top : Infinity;
    return { ...view, ...levelsOf(low, high, isSigned, cut), top, gain: top > 0 ? 1 / top : 0 };
  }
  const levels = levelsOf(low, high, isSigned);
  const imageSize = size.length === 1 ? [1, size[0]] : size.slice(-2);
  const peak = peakOf(maps.levels, view.begin, view.shape, levels, imageSize);
  const top = isSigned ? peak : Math.max(high, 0);
  return { ...view, ...levels, top, gain: peak > 0 ? 1 / peak : 0 };
}

/** Of a volume the slice in which its largest value is; a signal is an image of one row. */
function planeOf(maps, index) {
  const shape = maps.shapes[index];
  const begin = maps.begins[index];
  if (shape.length === 1) return { begin, shape: [1, shape[0]], slice: 0, slices: 1 };
  if (shape.length === 2) return { begin, shape, slice: 0, slices: 1 };
  const area = shape[1] * shape[2];
  const whole = maps.levels.subarray(begin, begin + shape[0] * area);
  const slice = Math.max(0, Math.floor(whole.indexOf(255) / area));
  return { begin: begin + slice * area, shape: shape.slice(1), slice, slices: shape[0] };
}
