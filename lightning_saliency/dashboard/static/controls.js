// The bar of controls.

import { element, setText } from "./dom.js";
import { COLOR_MAPS } from "./palette.js";
import { className, knownClasses } from "./record.js";
import { shownRuns } from "./scene.js";
import { shortNames } from "./words.js";

const SCALES = [
  ["map", "Each map by itself"],
  ["sample", "Each sample, all epochs"],
  ["shared", "Shared by all"],
];
const FILTERS = [
  ["all", "All samples"],
  ["wrong", "Wrong now"],
  ["changed", "Changed"],
];
const ALIGNMENTS = [
  ["epoch", "by epoch"],
  ["step", "by step"],
];
const NO_RUN = "";
const ANY_CLASS = "";

/** Return the bar of controls.
 * @param {object} state
 * @returns {{root: HTMLElement, update: (scene: object|null, runs: object[]) => void,
 *   showSize: (layout: import("./layout.js").Layout) => void}} `showSize` says how large cells are. */
export function createControls(state) {
  const run = choice("Run", (value) => state.set({ run: value, at: state.get().at }));
  const more = choice("Beside it", (value) => state.set({ beside: [...state.get().beside, value] }));
  const beside = element("div", { class: "chips", role: "group", "aria-label": "Runs beside it" });
  const align = choice("Aligned", (value) => state.set({ align: value }));
  const chips = element("div", { class: "chips", role: "group", "aria-label": "Methods" });
  const scale = choice("Scale", (value) => state.set({ scale: value }));
  const colors = choice("Colors", (value) => state.set({ colors: value }));
  const opacity = slider("Opacity", 0, 1, 0.05, (value) => state.set({ opacity: value }));
  const cell = slider("Size", 48, 384, 16, (value) => state.set({ cell: value }));
  const filter = choice("Show", (value) => state.set({ filter: value }));
  const classes = choice("Class", (value) => state.set({ class: value === ANY_CLASS ? null : Number(value) }));
  const text = element("input", {
    type: "search",
    placeholder: "Find a sample",
    "aria-label": "Find a sample by its words",
    input: () => state.set({ text: text.value }),
  });
  const curves = element(
    "button",
    { type: "button", class: "chip", click: () => state.set({ curves: !state.get().curves }) },
    "Curves",
  );
  const ofRuns = element("div", { class: "group" }, run.root, more.root, beside, align.root);
  const ofRecord = [
    element("div", { class: "group methods" }, chips),
    element("div", { class: "group" }, scale.root, colors.root, opacity.root, cell.root),
    element("div", { class: "group" }, filter.root, classes.root, text, curves),
  ];
  const root = element("header", { class: "bar" }, ofRuns, ...ofRecord);

  function update(scene, runs) {
    const now = state.get();
    const options = runs.map(({ id }) => [id, id]);
    run.update(options, now.run ?? "");
    run.root.hidden = runs.length < 1;
    const shown = shownRuns(now);
    const left = options.filter(([id]) => !shown.includes(id));
    more.update([[NO_RUN, shown.length > 1 ? "add a run" : "no other run"], ...left], NO_RUN);
    more.root.hidden = !left.length;
    updateRuns(beside, shown, (chosen) => state.set({ beside: chosen }));
    align.update(ALIGNMENTS, now.align);
    align.root.hidden = shown.length < 2;
    scale.update(SCALES, now.scale);
    colors.update(COLOR_MAPS, now.colors);
    opacity.update(now.opacity, `${Math.round(now.opacity * 100)}%`);
    filter.update(FILTERS, now.filter);
    if (text.value !== now.text && document.activeElement !== text) text.value = now.text;
    curves.setAttribute("aria-pressed", String(now.curves));
    for (const group of ofRecord) group.hidden = !scene;
    if (scene) updateOfRecord(scene, now);
  }

  function updateOfRecord({ runs, methods }, now) {
    const { about } = runs[0];
    const known = knownClasses(about);
    classes.update(
      [[ANY_CLASS, "any class"], ...known.map((index) => [String(index), className(about.class_names, index)])],
      now.class === null ? ANY_CLASS : String(now.class),
    );
    classes.root.hidden = known.length < 2;
    const all = new Map(runs.flatMap((shown) => shown.about.methods.map(({ key, title }) => [key, title])));
    updateChips(chips, [...all], methods, (chosen) => state.set({ methods: chosen }));
  }

  return { root, update, showSize: ({ cell: size, drawn }) => cell.update(size, `${drawn} px`) };
}

/** Show the runs beside the first one, each of which a click takes away. */
function updateRuns(parent, shown, choose) {
  const key = JSON.stringify(shown);
  if (parent.dataset.key === key) return;
  parent.dataset.key = key;
  const beside = shown.slice(1);
  const names = shortNames(shown).slice(1);
  parent.replaceChildren(
    ...beside.map((id, index) =>
      element(
        "button",
        {
          type: "button",
          class: "chip",
          title: `Take ${id} away`,
          "aria-pressed": "true",
          "aria-label": `Take ${id} away`,
          click: () => choose(beside.filter((other) => other !== id)),
        },
        `${names[index]} ×`,
      ),
    ),
  );
  parent.hidden = !beside.length;
}

function updateChips(parent, all, shown, choose) {
  const key = JSON.stringify(all);
  if (parent.dataset.key !== key) {
    parent.dataset.key = key;
    parent.replaceChildren(
      ...all.map(([name, title]) => element("button", { type: "button", class: "chip", "data-method": name }, title)),
    );
  }
  for (const chip of parent.children) {
    const { method } = chip.dataset;
    const isShown = shown.includes(method);
    chip.setAttribute("aria-pressed", String(isShown));
    chip.onclick = () =>
      choose(all.map(([name]) => name).filter((name) => (name === method ? !isShown : shown.includes(name))));
  }
}

function choice(label, chosen) {
  const select = element("select", { change: () => chosen(select.value) });
  const root = element("label", { class: "field" }, element("span", { class: "label" }, label), select);
  let last = "";
  return {
    root,
    update(options, value) {
      const key = JSON.stringify(options);
      if (key !== last)
        select.replaceChildren(...options.map(([name, words]) => element("option", { value: name }, words)));
      last = key;
      if (select.value !== value) select.value = value;
    },
  };
}

function slider(label, min, max, step, moved) {
  const number = element("span", { class: "number" });
  const input = element("input", {
    type: "range",
    "aria-label": label,
    min,
    max,
    step,
    input: () => moved(Number(input.value)),
  });
  const root = element("label", { class: "field" }, element("span", { class: "label" }, label, " ", number), input);
  return {
    root,
    update(value, words) {
      setText(number, words);
      if (Number(input.value) !== value) input.value = String(value);
    },
  };
}
