// The scrubber: one place a look, play and pause.

import { element, setText, svgElement } from "./dom.js";
import { joinedWords, lookWords } from "./record.js";
import { lookName } from "./timeline.js";

const SPEEDS = [1, 2, 4, 8, 16];
const LONGEST_WAIT = 1000; // for maps that are on their way, in milliseconds
const MOST_LABELS = 12;

/** Return the scrubber.
 * @param {object} state
 * @param {() => object|null} sceneNow
 * @param {() => boolean} isInSight
 * @returns {object} */
export function createScrubber(state, sceneNow, isInSight) {
  const range = element("input", {
    type: "range",
    class: "range",
    min: 0,
    max: 0,
    step: 1,
    value: 0,
    "aria-label": "Look",
    input: () => goTo(Number(range.value)),
  });
  const ticks = svgElement("svg", { class: "ticks", "aria-hidden": "true" });
  const labels = element("div", { class: "tick-labels", "aria-hidden": "true" });
  const playButton = iconButton("Play", "play", () => toggle());
  const speed = element("select", {
    class: "speed",
    "aria-label": "Looks a second",
    title: "Looks a second",
    change: () => state.set({ speed: Number(speed.value) }),
  });
  speed.append(...SPEEDS.map((value) => element("option", { value: String(value) }, `${value}/s`)));
  const words = element("output", { class: "look-words", "aria-live": "off" });
  const root = element(
    "div",
    { class: "scrubber" },
    element(
      "div",
      { class: "player" },
      iconButton("Step back", "back", () => step(-1)),
      playButton,
      iconButton("Step forward", "forward", () => step(1)),
      speed,
    ),
    words,
    element("div", { class: "track" }, ticks, labels, range),
  );
  let timer = null;
  let direction = 1;
  let waited = 0;
  let drawnTimeline = null;

  function goTo(place) {
    const scene = sceneNow();
    if (!scene?.timeline.length) return;
    const next = Math.max(0, Math.min(scene.timeline.length - 1, place));
    if (next !== scene.place) direction = Math.sign(next - scene.place);
    const { looks } = scene.timeline[next];
    const isLatest = next === scene.timeline.length - 1;
    state.set({ at: isLatest ? null : lookName(lookThatChanges(looks, scene.timeline[next - 1]?.looks)) });
  }

  function step(by) {
    const scene = sceneNow();
    if (scene) goTo(scene.place + by);
  }

  function toggle() {
    if (timer !== null) return pause();
    const scene = sceneNow();
    if (!scene || scene.timeline.length < 2) return;
    if (scene.place === scene.timeline.length - 1) goTo(0);
    waited = 0;
    timer = setTimeout(advance, 1000 / state.get().speed);
    showPlaying();
  }

  function pause() {
    clearTimeout(timer);
    timer = null;
    showPlaying();
  }

  function advance() {
    const scene = sceneNow();
    if (!scene || !isInSight()) return pause();
    const pitch = 1000 / state.get().speed;
    waited += pitch;
    if (!scene.isLate() || waited > LONGEST_WAIT) {
      waited = 0;
      step(1);
    }
    if (sceneNow().place >= scene.timeline.length - 1) return pause();
    timer = setTimeout(advance, pitch);
  }

  function showPlaying() {
    const isPlaying = timer !== null;
    playButton.dataset.icon = isPlaying ? "pause" : "play";
    playButton.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    playButton.title = isPlaying ? "Pause (space)" : "Play (space)";
  }

  function update(scene) {
    const { timeline, place } = scene;
    range.max = String(Math.max(0, timeline.length - 1));
    range.disabled = timeline.length < 2;
    if (range.value !== String(place)) range.value = String(place);
    const said = placeWords(scene, place);
    setText(words, said);
    range.setAttribute("aria-valuetext", said);
    speed.value = String(state.get().speed);
    if (drawnTimeline !== timeline) drawTicks(timeline);
  }

  function drawTicks(timeline) {
    drawnTimeline = timeline;
    const count = timeline.length;
    const part = (index) => (count > 1 ? (100 * index) / (count - 1) : 0);
    ticks.replaceChildren(
      ...timeline.map(({ value }, index) =>
        svgElement("line", { x1: `${part(index)}%`, x2: `${part(index)}%`, y1: value < 0 ? 0 : 2, y2: 8 }),
      ),
    );
    labels.replaceChildren(
      ...labelled(timeline).map(([index, said]) => {
        const label = element("span", {}, said);
        label.style.left = `${part(index)}%`;
        return label;
      }),
    );
  }

  return { root, update, goTo, step, toggle, pause, direction: () => direction, isPlaying: () => timer !== null };
}

function iconButton(label, icon, click) {
  return element("button", {
    type: "button",
    class: "icon",
    "aria-label": label,
    title: label,
    "data-icon": icon,
    click,
  });
}

/** Of several runs some may show the same look as at the place before: the address names one that has changed. */
function lookThatChanges(looks, before) {
  return looks.find((look, run) => look && look !== before?.[run]) ?? looks.find(Boolean);
}

/** Return the places that have a label, and what it says: the epochs that are multiples of a round number. */
function labelled(timeline) {
  const epochs = timeline.map(({ looks }, index) => lookThatChanges(looks, timeline[index - 1]?.looks)?.epoch ?? null);
  const least = Math.max(...epochs, 1) / MOST_LABELS;
  const decade = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  const pitch = [1, 2, 5, 10].map((factor) => factor * decade).find((round) => round >= least);
  const isFirst = (index) => epochs[index] !== epochs[index - 1];
  const chosen = [...epochs.entries()].filter(
    ([index, epoch]) => isFirst(index) && epoch !== null && epoch % pitch === 0,
  );
  const roomBefore = chosen.filter(([index]) => epochs[0] !== null || index / epochs.length > 0.06);
  return [...(epochs[0] === null ? [[0, "initial"]] : []), ...roomBefore];
}

function placeWords({ timeline, runs }, place) {
  const looks = timeline[place]?.looks ?? [];
  if (!looks.some(Boolean)) return "no look yet";
  return [...new Set(looks.filter(Boolean).map(lookWords))].slice(0, runs.length).join("  |  ") || joinedWords([]);
}
