// What is shown now, made of the state and of what was loaded.

import { DIVERGING } from "./palette.js";
import { chosenSamples } from "./record.js";
import { COMING } from "./store.js";
import { makeTimeline, placeOf } from "./timeline.js";
import { shortNames } from "./words.js";

const MOST_METHODS = 4; // that are shown before one chooses
const AHEAD = 4; // places that are loaded before they are asked for
const FARTHEST = 64; // places from which a look is shown while its own one is on its way

const timelines = new WeakMap();

/** Return what is shown; null before a record was loaded.
 * @param {object} state
 * @param {object} store
 * @param {{inks: object}} page
 * @returns {object|null} */
export function makeScene(state, store, page) {
  const ids = shownRuns(state).filter((id) => store.about(id));
  if (!ids.length) return null;
  const abouts = ids.map((id) => store.about(id));
  const timeline = timelineOf(abouts, state.align);
  const place = placeOf(timeline, state.at);
  const runs = ids.map((id, run) => ({
    id,
    about: abouts[run],
    name: abouts[run].name,
    short: shortNames(abouts.map(({ name }) => name))[run],
    look: timeline[place]?.looks[run],
  }));
  const methods = shownMethods(state, abouts);
  const columns = [{ run: 0, id: ids[0], about: abouts[0], title: imageTitle(abouts[0]) }];
  runs.forEach((shown, run) => {
    const own = shown.about.methods.filter(({ key }) => methods.includes(key));
    columns.push(...own.map((method) => mapColumn(method, shown, run, state, store, timeline, place)));
  });
  const samples = chosenSamples(abouts[0], runs[0].look, state);
  return {
    state,
    store,
    runs,
    columns,
    samples,
    methods,
    timeline,
    place,
    ink: page.ink,
    isSigned: state.colors === DIVERGING,
    layoutKey: layoutKey(state, runs, columns, samples),
    isLate: () => columns.some(({ look, shownLook, peaks }) => (look && look !== shownLook) || peaks === COMING),
  };
}

/** Return the runs that are asked for, each once, in their order.
 * @param {object} state
 * @returns {string[]} */
export function shownRuns({ run, beside }) {
  return [...new Set([run, ...beside])].filter(Boolean);
}

function timelineOf(abouts, align) {
  const last = abouts[abouts.length - 1];
  if (!timelines.has(last)) timelines.set(last, new Map());
  const known = timelines.get(last);
  const before = known.get(align);
  if (before?.abouts.every((about, index) => about === abouts[index]) && before.abouts.length === abouts.length)
    return before.timeline;
  const timeline = makeTimeline(
    abouts.map(({ looks }) => looks),
    abouts.length === 1 ? "step" : align,
  );
  known.set(align, { abouts, timeline });
  return timeline;
}

function imageTitle({ samples }) {
  return { 1: "signal", 2: "image", 3: "volume" }[samples[0]?.size.length ?? 2];
}

/** Return the keys of the methods that are shown.
 * @param {object} state
 * @param {object[]} abouts
 * @returns {string[]} */
export function shownMethods(state, abouts) {
  const all = [...new Set(abouts.flatMap(({ methods }) => methods.map(({ key }) => key)))];
  const chosen = all.filter((key) => state.methods?.includes(key));
  return state.methods === null || (!chosen.length && state.methods.length) ? all.slice(0, MOST_METHODS) : chosen;
}

function mapColumn(method, { id, about, look }, run, state, store, timeline, place) {
  return {
    run,
    id,
    about,
    method: method.key,
    title: method.title,
    fine: method.fine,
    look,
    shownLook: nearestLoaded(id, method.key, run, look, store, timeline, place),
    peaks: state.scale === "map" ? {} : store.peaksOf(id, method.key),
  };
}

function nearestLoaded(id, method, run, look, store, timeline, place) {
  const canShow = (other) => other?.methods[method] && store.has(id, method, other);
  if (!look || canShow(look) || !look.methods[method] || store.refusal(id, method, look)) return look;
  for (let distance = 1; distance <= FARTHEST; distance++) {
    for (const other of [timeline[place - distance]?.looks[run], timeline[place + distance]?.looks[run]]) {
      if (canShow(other)) return other;
    }
  }
  return undefined;
}

function layoutKey(state, runs, columns, samples) {
  const shown = columns.map(({ id, method }) => `${id} ${method}`);
  const sizes = samples.map(({ position, size }) => `${position}:${size}`);
  return [state.cell, window.devicePixelRatio, runs.map(({ name }) => name), ...shown, ...sizes].join("\n");
}

/** Return what is loaded next: what is shown, then what the scrubber will come to.
 * @param {object} scene
 * @param {number} direction 1 forward, −1 backward.
 * @returns {{id: string, method: string, look: object}[]} */
export function wantedMaps(scene, direction) {
  const offsets = [0, ...Array.from({ length: AHEAD }, (_, index) => (index + 1) * direction), -direction];
  const wanted = [];
  for (const offset of offsets) {
    for (const { id, method, run } of scene.columns) {
      const look = scene.timeline[scene.place + offset]?.looks[run];
      if (method && look?.methods[method]) wanted.push({ id, method, look });
    }
  }
  return wanted;
}
