// From a record's 8-bit maps to values in [0, 1] at a cell's size, by the arithmetic of the package's own sheets.

const BITS = 12; // of a weight
const ONE = 2 ** BITS;
const WIDE_LEVEL = 257; // what 255 levels are multiplied by to end at the largest whole number
const GROUP = 4; // sources that are mixed at a time

/** The largest whole number that a value becomes. */
export const TOP = 2 ** 16 - 1;

/** How many rows, and pixels of a row, are read behind a map. */
export const PADDING = 2 * GROUP;

/** @typedef {{from: number, length: number, taps: number, starts: Int32Array, weights: Int32Array}} Resampling
 * Of each pixel of the result: where its sources begin, and their weights. */

const resamplings = new Map();

/** Return how a map becomes an image's size by interpolation, and that a cell's with antialiasing, in one step.
 * @param {number} from The map's length along an axis.
 * @param {number} image The image's.
 * @param {number} to The cell's.
 * @returns {Resampling} */
export function resampling(from, image, to) {
  return remembered(`${from} ${image} ${to}`, () =>
    compressed(from, product(reduced(image, to), interpolated(from, image))),
  );
}

/** Return how a map becomes those pixels of an image among which its maximum is: the first and the last one between
 * each two of the map's, since in between the interpolation is linear along each axis.
 * @param {number} from
 * @param {number} image
 * @returns {Resampling} */
export function peakResampling(from, image) {
  return remembered(`${from} ${image}`, () => {
    const rows = interpolated(from, image);
    const isEnd = (index) => index === 0 || index === image - 1 || !sameSources(rows[index], rows[index + 1]);
    return compressed(
      from,
      rows.filter((_, index) => isEnd(index) || !sameSources(rows[index], rows[index - 1])),
    );
  });
}

function remembered(key, make) {
  if (!resamplings.has(key)) resamplings.set(key, make());
  return resamplings.get(key);
}

function sameSources(first, second) {
  return first[0].join() === second[0].join();
}

/** Each row is a list of sources and a list of their weights. */
function interpolated(from, to) {
  return Array.from({ length: to }, (_, index) => {
    if (from === to) return [[index], [1]];
    const source = Math.max(0, ((index + 0.5) * from) / to - 0.5);
    const left = Math.min(Math.floor(source), from - 1);
    const part = source - left;
    return [
      [left, Math.min(left + 1, from - 1)],
      [1 - part, part],
    ];
  });
}

function reduced(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, index) => {
    const center = scale * (index + 0.5);
    const begin = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), from);
    const sources = Array.from({ length: end - begin }, (_, place) => begin + place);
    const weights = sources.map((source) => Math.max(0, 1 - Math.abs(source + 0.5 - center) / support));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return [sources, weights.map((weight) => weight / sum)];
  });
}

function product(outer, inner) {
  return outer.map(([sources, weights]) => {
    const sums = new Map();
    sources.forEach((source, place) => {
      inner[source][0].forEach((index, inside) => {
        sums.set(index, (sums.get(index) ?? 0) + weights[place] * inner[source][1][inside]);
      });
    });
    const pairs = [...sums].filter(([, weight]) => weight !== 0).sort((a, b) => a[0] - b[0]);
    return [pairs.map(([index]) => index), pairs.map(([, weight]) => weight)];
  });
}

function compressed(from, rows) {
  const length = rows.length;
  const spans = rows.map(([sources]) => sources[sources.length - 1] - sources[0] + 1);
  const taps = GROUP * Math.ceil(Math.max(...spans) / GROUP);
  const last = Math.max(...rows.map(([sources]) => sources[sources.length - 1]));
  const starts = new Int32Array(length);
  const weights = new Int32Array(length * taps);
  rows.forEach(([sources, own], row) => {
    starts[row] = Math.max(0, Math.min(sources[0], last - taps + 1));
    const first = row * taps - starts[row];
    for (const [place, source] of sources.entries()) weights[first + source] += Math.round(own[place] * ONE);
    const sum = weights.subarray(row * taps, (row + 1) * taps).reduce((total, weight) => total + weight, 0);
    weights[first + sources[own.indexOf(Math.max(...own))]] += ONE - sum; // so that a constant stays what it is
  });
  return { from, length, taps, starts, weights };
}

let scratch = new Int32Array(0);
let enlargedRows = new Int32Array(0);

/** Resample a map in whole numbers, which takes a third of the time of floating-point ones. Behind the levels there must
 * be `PADDING` more rows, which have no weight where the map has less than a group of them.
 * @param {Uint8Array} levels
 * @param {number} begin Where the map begins.
 * @param {number} width The map's width.
 * @param {Int32Array} table What each level becomes, from 0 to `TOP`.
 * @param {Resampling} down
 * @param {Resampling} across
 * @param {Int32Array} out `down.length` rows of `across.length` values, from 0 to `TOP`. */
export function resample(levels, begin, width, table, down, across, out) {
  if (scratch.length < width + PADDING) scratch = new Int32Array(width + PADDING);
  if (down.length > down.from && down.taps === GROUP) enlarge(levels, begin, width, table, down, across, out);
  else reduce(levels, begin, width, table, down, across, out);
}

/** Rows are enlarged first, since there are few of them; then each pixel of a row has the same weights. */
function enlarge(levels, begin, width, table, down, across, out) {
  const needed = (down.from + PADDING) * across.length;
  if (enlargedRows.length < needed) enlargedRows = new Int32Array(needed);
  const mix = across.taps === GROUP ? mixGroup : mixGroups;
  for (let y = 0, place = begin; y < down.from; y++) {
    for (let x = 0; x < width; x++, place++) scratch[x] = table[levels[place]];
    mix(across, scratch, enlargedRows, y * across.length);
  }
  for (let y = 0; y < down.length; y++) {
    const first = down.starts[y] * across.length;
    const rows = enlargedRows.subarray(first, first + GROUP * across.length);
    mixEnlarged(rows, across.length, down.weights.subarray(y * GROUP, (y + 1) * GROUP), out, y * across.length);
  }
}

function mixEnlarged(rows, width, [w0, w1, w2, w3], out, place) {
  const second = width;
  const third = second + width;
  const fourth = third + width;
  if (w2 === 0 && w3 === 0) {
    for (let x = 0; x < width; x++) {
      out[place + x] = (Math.imul(w0, rows[x]) + Math.imul(w1, rows[second + x])) >> BITS;
    }
    return;
  }
  for (let x = 0; x < width; x++) {
    const upper = Math.imul(w0, rows[x]) + Math.imul(w1, rows[second + x]);
    const lower = Math.imul(w2, rows[third + x]) + Math.imul(w3, rows[fourth + x]);
    out[place + x] = (upper + lower) >> BITS;
  }
}

/** Rows are mixed first, each pixel of one by the same weights, which leaves fewer of them. */
function reduce(levels, begin, width, table, down, across, out) {
  for (let y = 0, place = 0; y < down.length; y++, place += across.length) {
    scratch.fill(0, 0, width);
    for (let tap = 0; tap < down.taps; tap += GROUP) {
      mixRows(levels, begin + (down.starts[y] + tap) * width, width, table, down.weights, y * down.taps + tap, scratch);
    }
    if (across.taps === GROUP) mixGroup(across, scratch, out, place);
    else mixGroups(across, scratch, out, place);
  }
}

function mixRows(levels, first, width, table, weights, place, row) {
  const second = first + width;
  const third = second + width;
  const fourth = third + width;
  const w0 = weights[place];
  const w1 = weights[place + 1];
  const w2 = weights[place + 2];
  const w3 = weights[place + 3];
  for (let x = 0; x < width; x++) {
    const upper = Math.imul(w0, table[levels[first + x]]) + Math.imul(w1, table[levels[second + x]]);
    const lower = Math.imul(w2, table[levels[third + x]]) + Math.imul(w3, table[levels[fourth + x]]);
    row[x] += (upper + lower) >> BITS;
  }
}

function mixGroup({ length, starts, weights }, row, out, place) {
  for (let x = 0, first = 0; x < length; x++, first += GROUP) {
    const source = starts[x];
    const left = Math.imul(weights[first], row[source]) + Math.imul(weights[first + 1], row[source + 1]);
    const right = Math.imul(weights[first + 2], row[source + 2]) + Math.imul(weights[first + 3], row[source + 3]);
    out[place + x] = (left + right) >> BITS;
  }
}

function mixGroups({ length, taps, starts, weights }, row, out, place) {
  for (let x = 0, first = 0; x < length; x++) {
    let sum = 0;
    for (let source = starts[x], end = source + taps; source < end; source++, first++) {
      sum += Math.imul(weights[first], row[source]);
    }
    out[place + x] = sum >> BITS;
  }
}

/** @typedef {{table: Int32Array, low: number, unit: number}} Levels
 * What each of a map's 256 levels becomes, a whole number from 0 to `TOP`: multiples of `unit` above `low`. */

const EVEN_LEVELS = Int32Array.from({ length: 256 }, (_, level) => level * WIDE_LEVEL);

/** Return what the levels of a map stand for, and of an image.
 * @param {number} low
 * @param {number} high
 * @param {boolean} isSigned Whether negative values are kept.
 * @param {number} [most] What values are cut at.
 * @returns {Levels} */
export function levelsOf(low, high, isSigned, most = Infinity) {
  const bottom = Math.max(low, isSigned ? -most : 0);
  const top = Math.min(isSigned ? high : Math.max(high, 0), most);
  const unit = (top - bottom) / TOP;
  if (low === bottom && high === top) return { table: EVEN_LEVELS, low, unit };
  const table = new Int32Array(256);
  for (let level = 0; level < 256; level++) {
    const value = Math.max(bottom, Math.min(top, low + (level / 255) * (high - low)));
    table[level] = unit > 0 ? Math.round((value - bottom) / unit) : 0;
  }
  return { table, low: bottom, unit };
}

/** Return the value of a level.
 * @param {Levels} levels
 * @param {number} level
 * @returns {number} */
export function levelValue({ table, low, unit }, level) {
  return low + table[level] * unit;
}
