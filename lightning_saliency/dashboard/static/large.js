// One cell enlarged, with the filmstrip of its sample and method below: all epochs as a row.

import { cellContent, drawBoxes, withSlice } from "./block.js";
import { element, setText } from "./dom.js";
import { fittedSize } from "./layout.js";
import { mapPicture, pictureOf } from "./paint.js";
import { captionOf, joinedWords, lookWords } from "./record.js";
import { createStrip } from "./strip.js";
import { isolated } from "./words.js";

const ROOM_AROUND = 48; // pixels of the page that the words and the strip leave
const MOST_SIDE = 900;

/** Return the large view.
 * @param {{onClose: () => void, onGo: (place: number) => void, onSlice: (slice: number|null) => void,
 *   onPoint: (cell: object) => string}} told
 * @returns {object} */
export function createLarge(told) {
  const title = element("h2", { id: "large-title" });
  const caption = element("p", { class: "caption" });
  const images = element("canvas", { class: "images", "aria-hidden": "true" });
  const maps = element("canvas", { class: "maps", "aria-hidden": "true" });
  const boxes = element("span", { class: "boxes" });
  const band = element("span", { class: "band" });
  const figure = element("div", { class: "figure" }, images, maps, boxes, band);
  const reading = element("output", { class: "readout" });
  const slices = createSlices(told.onSlice);
  const strip = createStrip(told.onGo);
  const close = element("button", {
    type: "button",
    class: "icon",
    "data-icon": "close",
    "aria-label": "Close",
    title: "Close (Esc)",
    click: () => root.close(),
  });
  const root = element(
    "dialog",
    { class: "large", "aria-labelledby": "large-title", close: () => told.onClose() },
    element("div", { class: "large-head" }, title, caption, close),
    element("div", { class: "stage" }, figure),
    slices.root,
    reading,
    strip.root,
  );
  let now = null;
  figure.addEventListener("pointermove", (event) => {
    const rect = figure.getBoundingClientRect();
    if (now)
      setText(
        reading,
        told.onPoint({
          ...now,
          part: [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height],
        }),
      );
  });
  figure.addEventListener("pointerleave", () => setText(reading, ""));

  /** Show the cell that the state names, or nothing. */
  function update(scene) {
    const cell = largeCell(scene);
    if (!cell) {
      if (root.open) root.close();
      return;
    }
    if (!root.open) root.showModal();
    draw(cell, scene);
    strip.update(cell, scene);
  }

  function draw({ column, sample }, scene) {
    now = { column, sample, ...withSlice(cellContent(column, sample, scene), scene.state.slice) };
    const run = scene.runs[column.run];
    const said = run.look ? captionOf(run.about, run.look, sample) : { text: "", right: null };
    setText(
      title,
      joinedWords([
        `sample ${sample.position}`,
        column.title,
        scene.runs.length > 1 ? isolated(run.name) : "",
        run.look ? lookWords(run.look) : "",
      ]),
    );
    setText(caption, { true: "✓ ", false: "✗ ", null: "" }[said.right] + said.text);
    caption.dataset.right = { true: "right", false: "wrong", null: "" }[said.right];
    drawFigure(scene);
    slices.update(now, scene.state.slice);
    setText(band, now.reason);
    drawBoxes(boxes, sample, now, column.about);
  }

  function drawFigure(scene) {
    if (!now.image) return;
    const ratio = window.devicePixelRatio || 1;
    const room = Math.min(window.innerWidth - 2 * ROOM_AROUND, window.innerHeight * 0.55, MOST_SIDE);
    const fitted = fittedSize(now.image.size, Math.max(64, Math.round(room * ratio)));
    for (const canvas of [images, maps]) {
      if (canvas.width !== fitted[1] || canvas.height !== fitted[0]) [canvas.height, canvas.width] = fitted;
    }
    figure.style.width = `${fitted[1] / ratio}px`;
    figure.style.height = `${fitted[0] / ratio}px`;
    maps.style.opacity = scene.state.opacity;
    images.getContext("2d").putImageData(pictureOf(now.image, fitted, now.variant, now.slice, scene.ink), 0, 0);
    const context = maps.getContext("2d");
    if (now.measure)
      context.putImageData(
        mapPicture(now.maps, now.measure, now.image.size, fitted, scene.state.colors, now.factor, now.most),
        0,
        0,
      );
    else context.clearRect(0, 0, fitted[1], fitted[0]);
  }

  return { root, update, wanted: () => (root.open ? strip.wanted() : []) };
}

/** Return the choice of a volume's slice. */
function createSlices(onSlice) {
  const range = element("input", {
    type: "range",
    min: 0,
    step: 1,
    "aria-label": "Slice",
    input: () => onSlice(Number(range.value)),
  });
  const words = element("span", { class: "faint" });
  const follow = element(
    "button",
    { type: "button", class: "chip", click: () => onSlice(null) },
    "Where it is largest",
  );
  const root = element("div", { class: "slices" }, range, words, follow);
  return {
    root,
    update({ image, slice }, chosen) {
      root.hidden = image?.size.length !== 3;
      if (root.hidden) return;
      range.max = String(image.size[0] - 1);
      if (range.value !== String(slice)) range.value = String(slice);
      setText(words, `slice ${slice + 1} of ${image.size[0]}`);
      follow.setAttribute("aria-pressed", String(chosen === null));
    },
  };
}

/** Name a cell in the address.
 * @param {object} cell
 * @returns {string} */
export function cellName({ column, sample }) {
  return [sample.position, column.run, column.method ?? ""].join(" ");
}

function largeCell({ state, columns, runs }) {
  if (state.large === null) return null;
  const [position, run, method] = state.large.split(" ");
  const column = columns.find((own) => String(own.run) === run && (own.method ?? "") === method);
  const sample = column && runs[column.run].about.samples.find((own) => String(own.position) === position);
  return sample ? { column, sample } : null;
}
