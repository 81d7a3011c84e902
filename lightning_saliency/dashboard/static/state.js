// The one state of the page, and its words in the address.

const LISTS = ["methods", "beside"];
const NUMBERS = ["opacity", "cell", "speed", "class", "slice"];

/** What is shown when an address says nothing. `beside` are the runs beside the first one, `at` is a look, null for the latest one; `methods` null for the first, `cell` null
 * for cells as large as fit, `slice` of a volume that is enlarged for the one where its map is largest. */
export const DEFAULT_STATE = {
  run: null,
  beside: [],
  align: "epoch",
  at: null,
  methods: null,
  scale: "map",
  colors: "plasma",
  opacity: 0.85,
  cell: null,
  filter: "all",
  class: null,
  text: "",
  curves: true,
  speed: 4,
  large: null,
  slice: null,
};

const NAMES_OF_CHOICES = {
  align: ["epoch", "step"],
  scale: ["map", "sample", "shared"],
  colors: ["plasma", "turbo", "viridis", "inferno", "gray", "coolwarm"],
  filter: ["all", "wrong", "changed"],
};

/** Return the state of a page, which tells who subscribes of each change.
 * @param {object} initial */
export function createState(initial) {
  let now = { ...DEFAULT_STATE, ...initial };
  const subscribers = [];
  return {
    get: () => now,
    set(patch) {
      const changed = Object.keys(patch).filter((name) => now[name] !== patch[name]);
      if (!changed.length) return;
      now = { ...now, ...patch };
      for (const told of subscribers) told(new Set(changed));
    },
    subscribe: (told) => void subscribers.push(told),
  };
}

/** Return a state as it stands in an address: what differs from the default.
 * @param {object} state
 * @returns {URLSearchParams} */
export function stateToText(state) {
  const entries = Object.entries(state).filter(
    ([name, value]) => name in DEFAULT_STATE && JSON.stringify(value) !== JSON.stringify(DEFAULT_STATE[name]),
  );
  return new URLSearchParams(
    entries.map(([name, value]) => [name, LISTS.includes(name) ? value.map(escaped).join(",") : String(value)]),
  );
}

/** Return the parts of a state that an address says; what makes no sense is left out.
 * @param {URLSearchParams} text
 * @returns {object} */
export function stateFromText(text) {
  const entries = [...text]
    .filter(([name]) => Object.hasOwn(DEFAULT_STATE, name))
    .map(([name, word]) => [name, parsed(name, word)]);
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
}

/** A comma in a run's name is none of the list's. */
function escaped(item) {
  return item.replaceAll("%", "%25").replaceAll(",", "%2C");
}

function unescaped(item) {
  return item.replaceAll("%2C", ",").replaceAll("%25", "%");
}

function parsed(name, word) {
  if (LISTS.includes(name)) return word.split(",").filter(Boolean).map(unescaped);
  if (name === "curves") return word === "true";
  if (name in NAMES_OF_CHOICES) return NAMES_OF_CHOICES[name].includes(word) ? word : undefined;
  if (!NUMBERS.includes(name)) return word;
  const number = Number(word);
  return word !== "" && Number.isFinite(number) ? number : undefined;
}
