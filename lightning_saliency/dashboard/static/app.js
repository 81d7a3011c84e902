// The page: its parts, and what happens when something changes or arrives.

import { createCharts } from "./chart.js";
import { createControls } from "./controls.js";
import { element } from "./dom.js";
import { followTheme, isInSight, readAddress, writeAddress } from "./host.js";
import { cellName, createLarge } from "./large.js";
import { cellWords, createReadout } from "./readout.js";
import { makeScene, shownRuns, wantedMaps } from "./scene.js";
import { createScrubber } from "./scrubber.js";
import { createSheet } from "./sheet.js";
import { createState, stateFromText, stateToText } from "./state.js";
import { createStore } from "./store.js";
import { isolated } from "./words.js";

const POLL = 5000; // milliseconds between two questions for what is new
const ADDRESS_DELAY = 500;
const INKS = { true: [232, 234, 237], false: [32, 33, 36] };
const NARROW = 1000; // pixels of the page below which the curves are shown only when asked for

/** Start the page.
 * @param {HTMLElement} parent
 * @param {import("./source.js").Source} source */
export function startApp(parent, source) {
  const page = { ink: INKS.false, runs: [], isScanning: true, fault: "", said: [] };
  const state = createState({ curves: window.innerWidth >= NARROW, ...stateFromText(readAddress()) });
  const store = createStore(source, drawSoon, tellFault);
  const sheet = createSheet({
    onOpen: (cell) => state.set({ large: cellName(cell) }),
    onPoint: (cell) => readout.point(cell),
  });
  const controls = createControls(state);
  const scrubber = createScrubber(state, sceneNow, isInSight);
  const charts = createCharts((place) => scrubber.goTo(place));
  const readout = createReadout();
  const large = createLarge({
    onClose: () => state.set({ large: null, slice: null }),
    onSlice: (slice) => state.set({ slice }),
    onGo: (place) => scrubber.goTo(place),
    onPoint: cellWords,
  });
  const notice = element("div", { class: "notice", role: "status" });
  const body = element("div", { class: "body" }, sheet.root, charts.root);
  const foot = element("footer", { class: "foot" }, readout.root, scrubber.root);
  parent.replaceChildren(controls.root, notice, body, foot, large.root);

  let scene = null;
  let isDrawn = true;
  let isOnlyMoved = false; // along the scrubber, which changes nothing of the controls
  let addressTimer = 0;
  let isAsking = false;

  function sceneNow() {
    return scene ? makeScene(state.get(), store, page) : null;
  }

  function changed() {
    isOnlyMoved = false;
    drawSoon();
  }

  function drawSoon() {
    if (!isDrawn) return;
    isDrawn = false;
    requestAnimationFrame(draw);
  }

  function draw() {
    isDrawn = true;
    scene = makeScene(state.get(), store, page);
    if (!isOnlyMoved) {
      controls.update(scene, page.runs);
      body.hidden = !scene;
      foot.hidden = !scene;
    }
    isOnlyMoved = true;
    showNotices(notice, scene, page);
    if (!scene) return;
    sheet.draw(scene);
    controls.showSize(sheet.layout());
    scrubber.update(scene);
    charts.update(scene);
    readout.update(scene);
    large.update(scene);
    const view = { isSigned: scene.isSigned, side: sheet.layout().cellSide };
    store.want([...wantedMaps(scene, scrubber.direction()), ...large.wanted()], view);
  }

  function tellFault(words) {
    page.fault = words;
    changed();
  }

  async function refresh() {
    if (isAsking) return;
    isAsking = true;
    try {
      const { runs, is_scanning, note, problem } = await source.runs();
      [page.runs, page.isScanning, page.fault, page.said] = [runs, is_scanning, "", [note, problem].filter(Boolean)];
      chooseRun();
      await loadChosen();
    } catch (fault) {
      page.fault = fault.message;
    }
    isAsking = false;
    changed();
  }

  function chooseRun() {
    const ids = page.runs.map(({ id }) => id);
    const { run, beside } = state.get();
    const usable = page.runs.filter(({ looks, problem }) => looks > 0 || !problem);
    if (!ids.includes(run) && ids.length) state.set({ run: (usable[0] ?? page.runs[0]).id });
    if (!beside.every((id) => ids.includes(id))) state.set({ beside: beside.filter((id) => ids.includes(id)) });
  }

  async function loadChosen() {
    for (const id of shownRuns(state.get())) {
      const listed = page.runs.find((own) => own.id === id);
      if (!listed) store.forget(id);
      else if (store.about(id)?.stamp !== listed.stamp) await store.loadAbout(id);
    }
  }

  state.subscribe((names) => {
    if (names.has("run") || names.has("beside")) loadChosen().then(changed, (fault) => tellFault(fault.message));
    clearTimeout(addressTimer);
    addressTimer = setTimeout(() => writeAddress(stateToText(state.get())), ADDRESS_DELAY);
    if (names.size === 1 && names.has("at")) drawSoon();
    else changed();
  });
  followTheme((isDark) => {
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    page.ink = INKS[isDark];
    changed();
  });
  new ResizeObserver(changed).observe(sheet.root);
  document.addEventListener("keydown", (event) => onKey(event, scrubber));
  refresh();
  if (source.isLive) setInterval(() => isInSight() && refresh(), POLL);
}

function onKey(event, scrubber) {
  const isModified = event.ctrlKey || event.metaKey || event.altKey;
  const isTyped =
    event.target.matches("input:not(.range), select") || (event.target.matches(".range") && event.key !== " ");
  if (isModified || event.defaultPrevented || isTyped) return;
  const actions = {
    ArrowLeft: () => scrubber.step(-1),
    ArrowRight: () => scrubber.step(1),
    Home: () => scrubber.goTo(0),
    End: () => scrubber.goTo(Infinity),
    " ": () => scrubber.toggle(),
  };
  const isOnButton = event.key === " " && event.target.matches("button");
  if (isOnButton || !Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
}

function showNotices(parent, scene, page) {
  const lines = noticesOf(scene, page);
  if (parent.dataset.key === lines.join("\n")) return;
  parent.dataset.key = lines.join("\n");
  parent.replaceChildren(...lines.map((line) => element("p", {}, line)));
  parent.hidden = !lines.length;
}

function noticesOf(scene, { runs, isScanning, fault, said }) {
  const lines = [...said];
  if (fault) lines.push(fault);
  if (!runs.length && !fault)
    lines.push(
      isScanning
        ? "Looking for records …"
        : "No run here has a record yet. It comes with the first look of SaliencyCallback(history=True).",
    );
  if (!scene)
    return [...lines, ...runs.filter(({ problem }) => problem).map(({ id, problem }) => `${isolated(id)}: ${problem}`)];
  for (const { about } of scene.runs) {
    lines.push(...about.problems);
    if (about.superseded) lines.push(`${about.superseded} looks are left out: the run was resumed from before them.`);
    if (!about.looks.length) lines.push("No look is recorded yet.");
  }
  const shown = scene.columns.filter(({ method, look }) => method && look);
  const refusals = shown.map(({ id, method, look }) => scene.store.refusal(id, method, look));
  lines.push(...new Set(refusals.filter(Boolean)));
  if (scene.runs[0].about.samples.length && !scene.samples.length) lines.push("No sample is like that at this look.");
  return lines;
}
