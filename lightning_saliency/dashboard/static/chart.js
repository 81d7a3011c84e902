// Small curves of the record's scalars, the current look marked.

import { element, setText, svgElement } from "./dom.js";
import { numberWords, shareRight } from "./record.js";

const [WIDTH, HEIGHT, PAD] = [220, 56, 4];
const DOT = 6; // the length of the line that stands for a single value
const DASHES = 4; // kinds of lines, of which each run has one
const COLORS = ["--curve-0", "--curve-1", "--curve-2", "--curve-3", "--curve-4", "--curve-5"];

/** Return the panel of curves.
 * @param {(place: number) => void} onGo Called with the place on the scrubber that was clicked.
 * @returns {object} */
export function createCharts(onGo) {
  const root = element("aside", { class: "charts", "aria-label": "Scalars of the record" });
  let drawnKey = "";
  let drawnTimeline = null;
  let charts = [];

  function update(scene) {
    root.hidden = !scene.state.curves;
    if (root.hidden) return;
    const key = scene.methods.join();
    if (drawnTimeline !== scene.timeline || drawnKey !== key) {
      drawnKey = key;
      drawnTimeline = scene.timeline;
      charts = curvesOf(scene).map((curves) => chartView(curves, scene, onGo));
      root.replaceChildren(
        ...(charts.length
          ? charts.map(({ root }) => root)
          : [element("p", { class: "faint" }, "This record has no scalars.")]),
      );
    }
    for (const chart of charts) chart.mark(scene.place);
  }

  return { root, update };
}

/** Return the curves by scalar, one for each method and run, with its values at the scrubber's places. */
function curvesOf({ runs, methods, timeline }) {
  const byName = new Map();
  runs.forEach(({ about }, run) => {
    for (const [name, read] of scalarsOf(about)) {
      const { method, metric } = splitName(name, about.methods);
      if (method && !methods.includes(method.key)) continue;
      const values = timeline.map(({ looks }, place) =>
        looks[run] && looks[run] !== timeline[place - 1]?.looks[run] ? read(looks[run]) : null,
      );
      const curve = {
        run,
        values: values.map((value) => (typeof value === "number" ? value : null)),
        label: method?.title ?? "",
        color: method ? methods.indexOf(method.key) : 0,
      };
      if (!byName.has(metric)) byName.set(metric, []);
      if (curve.values.some((value) => value !== null)) byName.get(metric).push(curve);
    }
  });
  return [...byName].filter(([, curves]) => curves.length);
}

/** Return the names of a record's scalars, and what reads them off a look; first how many of its samples are right. */
function scalarsOf(about) {
  const names = [...new Set(about.looks.flatMap((look) => Object.keys(look.scalars)))];
  const recorded = names.map((name) => [name, (look) => look.scalars[name]]);
  return [["accuracy on these samples", (look) => shareRight(about, look)], ...recorded];
}

function splitName(name, methods) {
  const method = methods.find(({ key }) => name.includes(`${key}/`) && name[name.indexOf(`${key}/`) - 1] !== "_");
  const metric = method ? name.slice(name.indexOf(`${method.key}/`) + method.key.length + 1) : name;
  return { method, metric };
}

function chartView([metric, curves], scene, onGo) {
  const count = scene.timeline.length;
  const known = curves.flatMap(({ values }) => values).filter((value) => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const xOf = (place) => PAD + (count > 1 ? (place / (count - 1)) * (WIDTH - 2 * PAD) : WIDTH / 2);
  const yOf = (value) => (high > low ? HEIGHT - PAD - ((value - low) / (high - low)) * (HEIGHT - 2 * PAD) : HEIGHT / 2);
  const marker = svgElement("line", { class: "marker", y1: 0, y2: HEIGHT });
  const drawing = svgElement("svg", {
    class: "curve",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  drawing.append(marker, ...curves.map((curve) => curveLine(curve, xOf, yOf)));
  const title = metric.replaceAll("_", " ");
  const legend = curves.map((curve) => legendItem(curve, scene.runs));
  const button = element(
    "button",
    { type: "button", class: "curve-button", "aria-label": `${title}: go to the look at a click` },
    drawing,
  );
  button.addEventListener("click", (event) => {
    if (event.detail === 0) return; // of the keyboard, which has the arrow keys
    const rect = button.getBoundingClientRect();
    onGo(Math.round(((((event.clientX - rect.left) / rect.width) * WIDTH - PAD) / (WIDTH - 2 * PAD)) * (count - 1)));
  });
  const range = element(
    "span",
    { class: "faint span" },
    low === high ? numberWords(low) : `${numberWords(low)} – ${numberWords(high)}`,
  );
  const root = element(
    "figure",
    { class: "chart" },
    element("figcaption", {}, element("span", { class: "metric" }, title), range),
    button,
    element("div", { class: "legend" }, ...legend.map(({ root }) => root)),
  );
  return {
    root,
    mark(place) {
      marker.setAttribute("x1", xOf(place));
      marker.setAttribute("x2", xOf(place));
      for (const item of legend) item.mark(place);
    },
  };
}

function curveLine({ values, run, color }, xOf, yOf) {
  const points = values.map((value, place) => [place, value]).filter(([, value]) => value !== null);
  const corners = points.map(([place, value]) => [xOf(place), yOf(value)]);
  if (corners.length === 1) corners.unshift([corners[0][0] - DOT, corners[0][1]]);
  const words = corners.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ");
  const made = svgElement("polyline", { class: `run-${run % DASHES}`, points: words });
  made.style.stroke = `var(${COLORS[color % COLORS.length]})`;
  return made;
}

function legendItem({ values, run, label, color }, runs) {
  const dot = element("i", { class: `dot run-${run % DASHES}` });
  dot.style.background = `var(${COLORS[color % COLORS.length]})`;
  const number = element("b", {});
  const name = [runs.length > 1 ? runs[run].short : "", label].filter(Boolean).join(" · ") || "now";
  const root = element("span", { class: "item", title: name }, dot, element("span", { class: "name" }, name), number);
  return {
    root,
    mark(place) {
      const value = values.slice(0, place + 1).findLast((known) => known !== null);
      setText(number, value === undefined ? "–" : numberWords(value));
    },
  };
}
