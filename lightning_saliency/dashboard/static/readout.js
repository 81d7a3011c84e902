// The line below the sheet: what is under the pointer, and the color bar with its scale.

import { element, setText } from "./dom.js";
import { colorTable } from "./palette.js";
import { className, joinedWords, numberWords, percent } from "./record.js";
import { scaleWords } from "./scales.js";

const HINT = "Point at a map to read it, click to enlarge it";
const MID_GRAY = 118;
const [BAR_WIDTH, BAR_HEIGHT] = [160, 10];

/** Return the line of words and the color bar.
 * @returns {object} */
export function createReadout() {
  const words = element("output", { class: "readout", "aria-live": "off" }, HINT);
  const bar = element("canvas", { class: "color-bar", width: BAR_WIDTH, height: BAR_HEIGHT, "aria-hidden": "true" });
  const ends = [element("span"), element("span")];
  const root = element("div", { class: "reading" }, words, element("div", { class: "scale" }, ends[0], bar, ends[1]));
  let drawn = "";

  function update({ state, columns }) {
    const fine = columns.filter(({ method }) => method).map((column) => column.fine);
    const said = scaleWords(state.scale, fine, state.colors);
    for (const [index, end] of ends.entries()) setText(end, said[index]);
    const key = `${state.colors} ${state.opacity}`;
    if (key !== drawn) drawBar(bar, state.colors, state.opacity);
    drawn = key;
  }

  return { root, update, point: (cell) => setText(words, cell ? cellWords(cell) : HINT) };
}

function drawBar(canvas, colors, opacity) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(BAR_WIDTH, BAR_HEIGHT);
  const table = new Uint8ClampedArray(colorTable(colors).buffer);
  for (let place = 0; place < BAR_WIDTH * BAR_HEIGHT; place++) {
    const index = Math.floor(((place % BAR_WIDTH) * 256) / BAR_WIDTH);
    const weight = (table[4 * index + 3] / 255) * opacity;
    for (let channel = 0; channel < 3; channel++) {
      picture.data[4 * place + channel] = MID_GRAY + weight * (table[4 * index + channel] - MID_GRAY);
    }
    picture.data[4 * place + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

/** Say what is under the pointer: whose map, the pixel, the value, the class.
 * @param {object} cell
 * @returns {string} */
export function cellWords({ column, sample, image, look, row, maps, measure, reason, slice, part, factor }) {
  if (!image) return `sample ${sample.position}`;
  const pixel = pixelAt(image.size, part);
  const names = column.about.class_names;
  const value = maps && measure ? valueAt(maps, measure, image.size, part) : null;
  return joinedWords([
    column.method ? column.title : "image",
    `sample ${sample.position}`,
    pixelWords(image.size, pixel, slice),
    value === null
      ? colorWords(column, image, pixel)
      : `value ${numberWords(value)} (${percent(Math.max(-1, Math.min(1, value * measure.gain * factor)))} of the scale)`,
    reason,
    look && row >= 0 && look.classes[row] !== null ? `class ${className(names, look.classes[row])}` : "",
  ]);
}

function pixelAt(size, part) {
  const lengths = size.length === 1 ? [1, size[0]] : size.slice(-2);
  return [1, 0].map((axis, place) => Math.max(0, Math.min(lengths[axis] - 1, Math.floor(part[place] * lengths[axis]))));
}

function pixelWords(size, [x, y], slice) {
  if (size.length === 1) return `time ${x}`;
  return size.length === 3 ? `x ${x}, y ${y}, slice ${slice + 1}` : `x ${x}, y ${y}`;
}

function colorWords(column, { pixels, size }, [x, y]) {
  if (column.method || size.length !== 2) return "";
  const place = 3 * (y * size[1] + x);
  return `RGB ${[...pixels.subarray(place, place + 3)].join(" ")}`;
}

/** Return the raw value at the center of a pixel of the image, interpolated as it is shown. */
function valueAt({ levels }, { begin, shape, range }, size, part) {
  const lengths = size.length === 1 ? [1, size[0]] : size.slice(-2);
  const pixel = pixelAt(size, part).reverse();
  const [rows, columns] = shape.map((length, axis) => sourcesAt(pixel[axis], lengths[axis], length));
  let level = 0;
  for (const [y, down] of rows) {
    for (const [x, across] of columns) level += down * across * levels[begin + y * shape[1] + x];
  }
  return range[0] + (level / 255) * (range[1] - range[0]);
}

function sourcesAt(pixel, from, length) {
  const source = Math.max(0, Math.min(length - 1, ((pixel + 0.5) * length) / from - 0.5));
  const left = Math.floor(source);
  return [
    [left, 1 - (source - left)],
    [Math.min(length - 1, left + 1), source - left],
  ];
}
