// A record as values: what is said of a sample, who is right, which samples are asked for.

import { isolated, shorten } from "./words.js";

const MOST_NAMED = 3;

const REASONS = {
  "constant 0": "all 0: nothing speaks for it",
  "all negative": "all negative: everything speaks against it",
  "not finite": "no numbers: infinite, or not defined",
};

const OF_VALUES = ["regression", "embedding"]; // tasks whose answers are values, which may be whole numbers
const NOTHING = { detection: "nothing detected" };

/** Return the name of a class, its number where it has none.
 * @param {string[]|null} names
 * @param {number} index
 * @returns {string} */
export function className(names, index) {
  return (names && index >= 0 && names[index]) || String(index);
}

/** Say in plain words why a map is blank.
 * @param {string} reason
 * @returns {string} */
export function reasonWords(reason) {
  return REASONS[reason] ?? reason.replace("constant ", "the same everywhere: ");
}

/** Return whether an answer is true: null of values, and where one of the two is not known.
 * @param {*} answer
 * @param {*} truth
 * @param {string} task
 * @returns {boolean|null} */
export function isRight(answer, truth, task) {
  if (answer === null || truth === null || OF_VALUES.includes(task) || isOfValues(truth)) return null;
  const [said, known] = [new Set([answer].flat()), new Set([truth].flat())];
  return said.size === known.size && [...said].every((index) => known.has(index));
}

function isOfValues(answer) {
  return [answer].flat().some((value) => !Number.isInteger(value));
}

/** Return the parts of a caption: what is said of a sample at a look.
 * @param {object} about The record.
 * @param {object} look
 * @param {object} sample
 * @param {number} [length] To how many characters names are shortened.
 * @returns {{text: string, right: boolean|null}} */
export function captionOf(about, look, sample, length = Infinity) {
  const nameOf = (index) => isolated(shorten(className(about.class_names, index), length));
  const row = look.positions.indexOf(sample.position);
  const truth = truthWords(sample.label, nameOf, look.task);
  if (row < 0) return { text: joinedWords([truth, "not explained"]), right: null };
  const answer = look.predictions[row];
  const right = isRight(answer, sample.label, look.task);
  const areValues = OF_VALUES.includes(look.task);
  const explained = look.classes[row];
  const isSaid = explained !== null && explained !== -1 && !(areValues ? explained === 0 : isOnly(answer, explained));
  const isTrue = isSaid && !areValues && right !== true && isOnly(sample.label, explained);
  return {
    right,
    text: joinedWords([
      predictionWords(answer, look, row, nameOf, right),
      right === true || isTrue ? "" : truth,
      isSaid ? `map of: ${isTrue ? "true " : ""}${areValues ? `value ${explained}` : nameOf(explained)}` : "",
    ]),
  };
}

function isOnly(answer, index) {
  const classes = [answer].flat();
  return classes.length === 1 && classes[0] === index;
}

function predictionWords(answer, look, row, nameOf, right) {
  if (answer === null) return "";
  if (Array.isArray(answer) && answer.length === 0) return NOTHING[look.task] ?? "predicted none";
  const probability = look.probabilities[row];
  const behind = typeof probability === "number" ? ` ${percent(probability)}` : "";
  const said = answerWords(answer, nameOf, look.task, behind);
  return right === true ? said : `predicted ${said}`;
}

function answerWords(answer, nameOf, task, behind = "") {
  const items = [answer].flat();
  if (items.length === 0) return "none";
  const words = items.slice(0, MOST_NAMED).map((item) => itemWords(item, nameOf, task));
  const isNumber = behind && words.length === 1 && /^\u2068\d+\u2069$/.test(words[0]);
  const last = (items.length > MOST_NAMED ? ", …" : "") + (items.length === 1 ? behind : "");
  return (isNumber ? "class " : "") + words.join(", ") + last;
}

function itemWords(item, nameOf, task) {
  const isValue = OF_VALUES.includes(task) || !Number.isInteger(item);
  return isValue ? numberWords(Number(item)) : nameOf(item);
}

function truthWords(label, nameOf, task) {
  return label === null ? "" : `true ${answerWords(label, nameOf, task)}`;
}

/** Join words, without what is empty.
 * @param {string[]} words
 * @returns {string} */
export function joinedWords(words) {
  return words.filter(Boolean).join(" · ");
}

/** @param {number} part
 * @returns {string} */
export function percent(part) {
  return `${(part * 100).toFixed(0)}%`;
}

/** Return a number in few digits.
 * @param {number} value
 * @returns {string} */
export function numberWords(value) {
  if (!Number.isFinite(value)) return String(value);
  return String(Number(value.toPrecision(4)));
}

/** Name a look.
 * @param {object} look
 * @returns {string} */
export function lookWords(look) {
  return look.epoch === null ? "initial" : `epoch ${look.epoch} · step ${look.step}`;
}

/** Return the samples that are asked for.
 * @param {object} about
 * @param {object|undefined} look The one that is shown.
 * @param {{filter: string, class: number|null, text: string}} asked
 * @returns {object[]} */
export function chosenSamples(about, look, asked) {
  const text = asked.text.trim().toLowerCase();
  return about.samples.filter(
    (sample) =>
      isOfFilter(about, look, sample, asked.filter) &&
      (asked.class === null || classesOf(look, sample).includes(asked.class)) &&
      (!text || wordsOf(about, look, sample).includes(text)),
  );
}

function isOfFilter(about, look, sample, filter) {
  if (filter === "wrong") return rightAt(look, sample) === false;
  if (filter === "changed") return changes(about, sample);
  return true;
}

function rightAt(look, sample) {
  const row = look ? look.positions.indexOf(sample.position) : -1;
  return row < 0 ? null : isRight(look.predictions[row], sample.label, look.task);
}

/** Return which share of the samples are right at a look, of those of which that is known; null where it is of none.
 * @param {object} about
 * @param {object} look
 * @returns {number|null} */
export function shareRight(about, look) {
  const known = about.samples.map((sample) => rightAt(look, sample)).filter((right) => right !== null);
  return known.length ? known.filter(Boolean).length / known.length : null;
}

function changes(about, sample) {
  const answers = about.looks.map((look) => rightAt(look, sample)).filter((right) => right !== null);
  return answers.includes(true) && answers.includes(false);
}

function classesOf(look, sample) {
  const row = look ? look.positions.indexOf(sample.position) : -1;
  return [sample.label, row < 0 ? null : look.predictions[row]].flat().filter((item) => item !== null);
}

function wordsOf(about, look, sample) {
  const named = classesOf(look, sample).map((index) => className(about.class_names, index));
  return [`#${sample.position}`, ...named].join(" ").toLowerCase();
}

/** Return the classes that samples are of, in the order of their numbers.
 * @param {object} about
 * @returns {number[]} */
export function knownClasses(about) {
  if (OF_VALUES.includes(about.looks[0]?.task)) return [];
  const labels = about.samples.flatMap(({ label }) => (label === null || isOfValues(label) ? [] : label));
  return [...new Set(labels)].sort((a, b) => a - b);
}
