// From a record's 8-bit maps to values in [0, 1] at a cell's size, by the arithmetic of the package's own sheets.

const PERCENTILE = 0.99;

/** @typedef {{length: number, taps: number, starts: Int32Array, weights: Float32Array}} Resampling
 * Of each pixel of the result: where its sources begin, and their weights. */

const resamplings = new Map();

/** Return how a map becomes an image's size by interpolation, and that a cell's with antialiasing, in one step.
 * @param {number} from The map's length along an axis.
 * @param {number} image The image's.
 * @param {number} to The cell's.
 * @returns {Resampling} */
export function resampling(from, image, to) {
  return remembered(`${from} ${image} ${to}`, () => compressed(product(reduced(image, to), interpolated(from, image))));
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
    return compressed(rows.filter((_, index) => isEnd(index) || !sameSources(rows[index], rows[index - 1])));
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
    return [[left, Math.min(left + 1, from - 1)], [1 - part, part]];
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

function compressed(rows) {
  const length = rows.length;
  const taps = Math.max(...rows.map(([sources]) => sources[sources.length - 1] - sources[0] + 1));
  const last = Math.max(...rows.map(([sources]) => sources[sources.length - 1]));
  const starts = new Int32Array(length);
  const weights = new Float32Array(length * taps);
  rows.forEach(([sources, own], row) => {
    starts[row] = Math.max(0, Math.min(sources[0], last - taps + 1)); // so that no source lies behind the last one
    sources.forEach((source, place) => (weights[row * taps + source - starts[row]] += own[place]));
  });
  return { length, taps, starts, weights };
}

let scratch = new Float32Array(0);

/** Resample a map, its levels looked up in a table of 256 values.
 * @param {Uint8Array} levels
 * @param {number} begin Where the map begins.
 * @param {number} width The map's width.
 * @param {Float32Array} table
 * @param {Resampling} down
 * @param {Resampling} across
 * @param {Float32Array} out `down.length` rows of `across.length` values. */
export function resample(levels, begin, width, table, down, across, out) {
  if (scratch.length < width) scratch = new Float32Array(width);
  for (let y = 0, place = 0; y < down.length; y++, place += across.length) {
    mixRows(levels, begin + down.starts[y] * width, width, table, down.weights, y * down.taps, down.taps);
    mixColumns(across, out, place);
  }
}

function mixRows(levels, begin, width, table, weights, first, taps) {
  const row = scratch;
  const weight = weights[first];
  for (let x = 0; x < width; x++) row[x] = weight * table[levels[begin + x]];
  for (let tap = 1; tap < taps; tap++) {
    const next = weights[first + tap];
    if (next === 0) continue;
    const source = begin + tap * width;
    for (let x = 0; x < width; x++) row[x] += next * table[levels[source + x]];
  }
}

function mixColumns(across, out, place) {
  const row = scratch;
  const { length, taps, starts, weights } = across;
  for (let x = 0, first = 0; x < length; x++, first += taps) {
    const start = starts[x];
    let sum = 0;
    for (let tap = 0; tap < taps; tap++) sum += weights[first + tap] * row[start + tap];
    out[place + x] = sum;
  }
}

/** Return the value of each of a map's 256 levels.
 * @param {number} low
 * @param {number} high
 * @param {boolean} isSigned Whether negative values are kept.
 * @returns {Float32Array} */
export function levelValues(low, high, isSigned) {
  const values = new Float32Array(256);
  for (let level = 0; level < 256; level++) {
    const value = level === 255 ? high : low + (level / 255) * (high - low);
    values[level] = isSigned ? value : Math.max(value, 0);
  }
  return values;
}

/** Return the largest magnitude of a map at its image's size.
 * @param {Uint8Array} levels
 * @param {number} begin
 * @param {number[]} shape [h, w]
 * @param {Float32Array} table
 * @param {number[]} size [H, W]
 * @returns {number} */
export function peakOf(levels, begin, shape, table, size) {
  const down = peakResampling(shape[0], size[0]);
  const across = peakResampling(shape[1], size[1]);
  if (shape[0] === size[0] && shape[1] === size[1]) return largestLevel(levels, begin, shape[0] * shape[1], table);
  const values = new Float32Array(down.length * across.length);
  resample(levels, begin, shape[1], table, down, across, values);
  return values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
}

function largestLevel(levels, begin, count, table) {
  const present = histogram(levels, begin, count);
  return table.reduce((largest, value, level) => (present[level] ? Math.max(largest, Math.abs(value)) : largest), 0);
}

/** Return the 99th percentile of a map's magnitudes that are not 0, where few pixels come near the largest.
 * @param {Uint8Array} levels
 * @param {number} begin
 * @param {number} count
 * @param {Float32Array} table
 * @returns {number} 0 where all of them are 0. */
export function percentileOf(levels, begin, count, table) {
  const counts = histogram(levels, begin, count);
  const order = Array.from(table, (value, level) => [Math.abs(value), counts[level]]).sort((a, b) => a[0] - b[0]);
  const total = order.reduce((sum, [value, times]) => (value > 0 ? sum + times : sum), 0);
  let left = Math.ceil(PERCENTILE * total);
  for (const [value, times] of order) {
    if (value > 0 && (left -= times) <= 0) return value;
  }
  return 0;
}

function histogram(levels, begin, count) {
  const counts = new Uint32Array(256);
  for (let place = begin; place < begin + count; place++) counts[levels[place]]++;
  return counts;
}
