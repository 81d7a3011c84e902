// The maps of one look and method, as they came, and what is measured of them once.

import { fittedSize } from "./layout.js";
import { peakOf, percentileOf } from "./peaks.js";
import { levelsOf, PADDING, resample, resampling } from "./scaling.js";

const BYTES_OF_A_LEVEL = 3; // with what is kept of it at a cell's size, at most

/** @typedef {object} Maps
 * @property {Float32Array} ranges The minimum and the maximum of each.
 * @property {Uint8Array} levels
 * @property {number[]} begins Where each begins among the levels.
 * @property {number[][]} shapes
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

/** @typedef {{isFine: boolean, isSigned: boolean, side: number}} View
 * How maps are shown: `isSigned` with negative values, `side` pixels that a side of a cell has at most. */

/** Split the bytes of several looks, and measure and resize each map as it is shown, which takes longest.
 * @param {Uint8Array} bytes
 * @param {{shapes: number[][], sizes: number[][]}[]} looks Of each the shape of each map, and that of its image.
 * @param {View} view
 * @returns {Maps[]} */
export function splitMaps(bytes, looks, view) {
  let place = 0;
  return looks.map(({ shapes, sizes }) => {
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
      measures: new Map(),
      byteLength: BYTES_OF_A_LEVEL * total,
    };
    for (const [index, size] of sizes.entries()) {
      if (!size) continue; // a damaged record may have a map of no sample
      const measure = measureOf(maps, index, size, view.isFine, view.isSigned);
      valuesAt(maps, measure, size, fittedSize(size, view.side));
    }
    return maps;
  });
}

function percentileOfMap(maps, index, isSigned) {
  const [low, high] = maps.ranges.subarray(2 * index, 2 * index + 2);
  const count = maps.shapes[index].reduce((product, length) => product * length, 1);
  return percentileOf(maps.levels, maps.begins[index], count, levelsOf(low, high, isSigned));
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
    const top = percentileOfMap(maps, index, isSigned);
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

/** Return the measure of another slice of a volume, on the same scale.
 * @param {Measure} measure
 * @param {number} slice
 * @returns {Measure} */
export function atSlice(measure, slice) {
  const begin = measure.begin + (slice - measure.slice) * measure.shape[0] * measure.shape[1];
  return { ...measure, begin, slice, resized: { key: "", values: null } };
}

let scratchValues = new Int32Array(0);

/** Return a map's values at a cell's size. Those of a map that is larger than its cell are kept, since they take long;
 * the next call writes over others.
 * @param {Maps} maps
 * @param {Measure} measure
 * @param {number[]} size Of the image.
 * @param {number[]} fitted [h, w] of the cell.
 * @returns {Int32Array|Uint16Array} */
export function valuesAt(maps, measure, size, [height, width]) {
  const key = `${height} ${width}`;
  if (measure.resized.key === key) return measure.resized.values;
  const imageSize = size.length === 1 ? [1, size[0]] : size.slice(-2);
  const down = resampling(measure.shape[0], imageSize[0], height);
  const across = resampling(measure.shape[1], imageSize[1], width);
  if (scratchValues.length < height * width) scratchValues = new Int32Array(height * width);
  resample(maps.levels, measure.begin, measure.shape[1], measure.table, down, across, scratchValues);
  if (height * width > measure.shape[0] * measure.shape[1]) return scratchValues;
  measure.resized = { key, values: Uint16Array.from(scratchValues.subarray(0, height * width)) };
  return measure.resized.values;
}
