// Words that fit a few lines: names are shortened in their middle, so that all else is seen.

const NAME_LENGTHS = [Infinity, 40, 32, 26, 20, 16, 12, 9]; // in characters, until the words fit
const ISOLATES = /[\u2066-\u2069]/g;
const MOST_WIDTHS = 10000;
const SLACK = 8; // pixels that may be left at the end of a line where a word is broken

const context = document.createElement("canvas").getContext("2d");
const widths = new Map();

/** Return a name that turns nothing else where it is written from right to left.
 * @param {string} name
 * @returns {string} */
export function isolated(name) {
  return `\u2068${name.replace(ISOLATES, "")}\u2069`;
}

/** Shorten a name in its middle to so many characters.
 * @param {string} name
 * @param {number} length
 * @returns {string} */
export function shorten(name, length) {
  const characters = [...name];
  if (characters.length <= length) return name;
  const head = Math.floor(length / 2);
  const tail = characters.slice(characters.length - (length - head - 1));
  return `${characters.slice(0, head).join("").trimEnd()}…${tail.join("").trimStart()}`;
}

/** Return the parts of paths in which they differ: `a/lr=1/version_0` and `a/lr=2/version_0` are `lr=1` and `lr=2`.
 * @param {string[]} names
 * @returns {string[]} */
export function shortNames(names) {
  const paths = names.map((name) => name.split("/"));
  const least = Math.min(...paths.map((parts) => parts.length)) - 1; // of each a part is left
  const areSame = (place) => new Set(paths.map((parts) => parts.at(place))).size === 1;
  let [begin, end] = [0, 0];
  while (begin < least && areSame(begin)) begin++;
  while (begin + end < least && areSame(-1 - end)) end++;
  return paths.map((parts) => parts.slice(begin, parts.length - end).join("/"));
}

/** @typedef {{font: string, width: number, lines: number, indent: number}} Room
 * The most pixels of a line, and those that the first one has before its words. */

/** Return words that fit: with shorter names, or cut where even that is too long.
 * @param {(length: number) => string} write Returns the words with names of so many characters.
 * @param {Room} room
 * @returns {string} */
export function fittedWords(write, room) {
  let text = "";
  for (const length of NAME_LENGTHS) {
    text = write(length);
    if (fits(text, room)) return text;
  }
  return cut(text, room);
}

function cut(text, room) {
  const characters = [...text];
  let [fitting, tooLong] = [0, characters.length];
  while (tooLong - fitting > 1) {
    const middle = (fitting + tooLong) >> 1;
    if (fits(ended(characters, middle), room)) fitting = middle;
    else tooLong = middle;
  }
  return ended(characters, fitting);
}

function ended(characters, count) {
  const begin = characters.slice(0, count).join("");
  return `${begin.replace(/[\s·,;:]+$/, "")}…`;
}

/** Words are broken as the browser does: at spaces, and elsewhere only where one is wider than a line. */
function fits(text, { font, width, lines, indent }) {
  const space = widthOf(" ", font);
  let [line, end] = [1, indent];
  let isFirst = true;
  for (const word of text.split(/\s+/)) {
    const own = widthOf(word, font);
    const begin = isFirst ? end : end + space;
    if (begin + own > width && end > 0) line++;
    const place = begin + own > width ? 0 : begin;
    const more = own > width ? Math.ceil(own / Math.max(width - SLACK, 1)) - 1 : 0;
    line += more;
    end = more ? width : place + own;
    isFirst = false;
    if (line > lines) return false;
  }
  return true;
}

function widthOf(word, font) {
  const key = `${font}\n${word}`;
  if (!widths.has(key)) {
    if (widths.size > MOST_WIDTHS) widths.clear();
    context.font = font;
    widths.set(key, context.measureText(word).width);
  }
  return widths.get(key);
}
