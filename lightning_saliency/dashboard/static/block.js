// The block of one sample: its words, its cells, and what lies over them.

import { element, placeElement, setText } from "./dom.js";
import { fittedSize } from "./layout.js";
import { atSlice, measureOf } from "./maps.js";
import { mapPicture, pictureOf } from "./paint.js";
import { captionOf, className, reasonWords } from "./record.js";
import { largestOf, shownScale } from "./scales.js";
import { fittedWords } from "./words.js";

const [CAPTION_PADDING, NUMBER_MARGIN] = [5, 6]; // of the style, rounded up

const MARKS = new Map([
  [true, ["✓ ", "right"]],
  [false, ["✗ ", "wrong"]],
  [null, ["", ""]],
]);

/** Return what one cell shows at a look.
 * @param {object} column
 * @param {object} sample
 * @param {object} scene
 * @returns {object} */
export function cellContent(column, sample, scene) {
  const { store, state } = scene;
  const image = store.image(column.id, sample.position);
  if (!column.method) return { image, variant: "plain", slice: sliceBeside(image, sample, scene), reason: "" };
  const look = column.shownLook;
  const row = look ? look.positions.indexOf(sample.position) : -1;
  if (!image || row < 0 || !look.methods[column.method]) {
    return { image, variant: "dimmed", slice: middleSlice(image), reason: look ? "not explained" : "" };
  }
  const isFine = column.fine;
  const isSigned = scene.isSigned;
  const reason = look.methods[column.method].reasons[row];
  const isBlank = reason !== null && !(isSigned && reason === "all negative");
  if (isBlank) return { image, variant: "dimmed", slice: middleSlice(image), reason: reasonWords(reason), look, row };
  const maps = store.maps(column.id, column.method, look);
  const variant = isFine ? "dark" : "plain";
  const isRefused = store.refusal(column.id, column.method, look);
  if (!maps) return { image, variant, slice: middleSlice(image), reason: isRefused ? "cannot be read" : "", look, row };
  const measure = measureOf(maps, row, image.size, isFine, isSigned);
  const largest = largestOf(column.about, column.peaks, state.scale, sample.position, isSigned);
  return {
    image,
    variant,
    slice: sliceOf(image, measure),
    reason: "",
    look,
    row,
    maps,
    measure,
    ...shownScale(state.scale, measure, isFine, largest),
  };
}

/** The image alone shows the slice that the first method's map does. */
function sliceBeside(image, sample, scene) {
  const beside = image?.size.length === 3 ? scene.columns.find(({ method }) => method) : null;
  return beside ? cellContent(beside, sample, scene).slice : middleSlice(image);
}

function middleSlice(image) {
  return image && image.size.length === 3 ? Math.floor(image.size[0] / 2) : 0;
}

function sliceOf(image, measure) {
  if (image.size.length !== 3) return 0;
  const slice = Math.round(((measure.slice + 0.5) * image.size[0]) / measure.slices - 0.5);
  return Math.max(0, Math.min(image.size[0] - 1, slice));
}

/** Return what a cell shows with another slice of its volume; a content without one as it is.
 * @param {object} content See `cellContent`.
 * @param {number|null} slice Null for the one where the map is largest.
 * @returns {object} */
export function withSlice(content, slice) {
  const { image, measure } = content;
  if (slice === null || image?.size.length !== 3) return content;
  const chosen = Math.max(0, Math.min(image.size[0] - 1, slice));
  const own = measure && Math.floor(((chosen + 0.5) * measure.slices) / image.size[0]);
  return { ...content, slice: chosen, measure: measure && atSlice(measure, own) };
}

/** Return the block of a sample.
 * @param {object} sample
 * @param {object} scene
 * @param {import("./layout.js").Layout} layout
 * @param {HTMLElement} parent
 * @returns {object} */
export function blockView(sample, scene, layout, parent) {
  const captions = scene.runs.map((_, run) => captionView(sample, layout, run));
  const cells = scene.columns.map((column, index) => cellView(sample, column, index, layout));
  const root = element(
    "div",
    { class: "block" },
    ...captions.map(({ root }) => root),
    ...cells.map(({ root }) => root),
  );
  parent.append(root);
  return {
    root,
    moveTo({ left, top }, canvasTop) {
      placeElement(
        root,
        left / layout.ratio,
        top / layout.ratio,
        layout.blockWidth / layout.ratio,
        layout.rowHeight / layout.ratio,
      );
      for (const [index, cell] of cells.entries()) {
        cell.moveTo(left + layout.lefts[index], top - canvasTop + layout.captionHeight);
      }
    },
    drawWords(next) {
      for (const [run, caption] of captions.entries()) caption.draw(next.runs[run]);
    },
    drawCells(next, contexts) {
      for (const [index, cell] of cells.entries()) cell.draw(next.columns[index], next, contexts);
    },
    cellAt: (button, event) => cells.find((cell) => cell.root === button)?.at(event),
  };
}

function captionView(sample, layout, run) {
  const number = element("span", { class: "number" }, `${sample.position}`);
  const words = element("span", { class: "words" });
  const root = element("p", { class: "caption", "data-run": run }, number, words);
  const group = layout.groups[run];
  placeElement(root, group.left / layout.ratio, 0, group.width / layout.ratio, layout.captionHeight / layout.ratio);
  let last = "";
  let room = null;
  return {
    root,
    draw({ about, look }) {
      const caption = look ? captionOf(about, look, sample) : { text: "", right: null };
      const [sign, kind] = MARKS.get(caption.right);
      const whole = sign + caption.text;
      if (last === whole) return;
      last = whole;
      room ??= roomOf(root, number, layout, group);
      const said = fittedWords(
        (length) => (length < Infinity ? sign + captionOf(about, look, sample, length).text : whole),
        room,
      );
      setText(words, said);
      words.title = said === whole ? "" : whole;
      if (root.dataset.right !== kind) root.dataset.right = kind;
    },
  };
}

function roomOf(root, number, layout, group) {
  const { fontStyle, fontWeight, fontSize, fontFamily } = getComputedStyle(root); // `font` is empty beside other options
  const width = group.width / layout.ratio - CAPTION_PADDING;
  return {
    font: [fontStyle, fontWeight, fontSize, fontFamily].join(" "),
    width,
    lines: layout.captionLines,
    indent: number.offsetWidth + NUMBER_MARGIN,
  };
}

function cellView(sample, column, index, layout) {
  const band = element("span", { class: "band" });
  const detail = element("span", { class: "detail" });
  const boxes = element("span", { class: "boxes" });
  const title = column.method
    ? `${column.title} of sample ${sample.position}, enlarge`
    : `Sample ${sample.position}, enlarge`;
  const root = element("button", {
    class: "cell",
    type: "button",
    "aria-label": title,
    "data-sample": sample.position,
    "data-run": column.run,
    "data-method": column.method ?? "",
  });
  const fitted = fittedSize(sample.size, layout.cellSide);
  const { ratio } = layout;
  placeElement(root, layout.lefts[index] / ratio, layout.captionHeight / ratio, fitted[1] / ratio, fitted[0] / ratio);
  let place = [0, 0];
  let below = "";
  let above = {};
  let now = null;

  return {
    root,
    moveTo(left, top) {
      place = [left, top];
      below = "";
      above = {};
    },
    draw(next, scene, [images, maps]) {
      now = { column: next, sample, ...cellContent(next, sample, scene) };
      drawBelow(images, scene);
      drawAbove(maps, scene);
      setPart(root, band, now.reason);
      setPart(root, detail, now.image?.size.length === 3 ? `slice ${now.slice + 1} of ${now.image.size[0]}` : "");
      drawBoxes(boxes, sample, now, next.about);
      if (boxes.childElementCount && !boxes.parentNode) root.prepend(boxes);
    },
    at(event) {
      const rect = root.getBoundingClientRect();
      return { ...now, part: [(event.clientX - rect.left) / rect.width, (event.clientY - rect.top) / rect.height] };
    },
  };

  function drawBelow(context, scene) {
    const key = now.image ? `${now.variant} ${now.slice} ${scene.ink}` : "";
    if (key === below) return;
    below = key;
    if (now.image) context.putImageData(pictureOf(now.image, fitted, now.variant, now.slice, scene.ink), ...place);
    else context.clearRect(...place, fitted[1], fitted[0]);
  }

  function drawAbove(context, scene) {
    const { maps, measure, factor, most } = now;
    const { colors } = scene.state;
    const isSame =
      above.measure === measure && above.factor === factor && above.most === most && above.colors === colors;
    if (isSame) return;
    if (measure)
      context.putImageData(mapPicture(maps, measure, now.image.size, fitted, colors, factor, most), ...place);
    else context.clearRect(...place, fitted[1], fitted[0]);
    above = { measure, factor, most, colors };
  }
}

/** Set the words of a part that is there only while it has some: each costs time at every step. */
function setPart(parent, part, words) {
  if (!words) return part.remove();
  setText(part, words);
  if (!part.parentNode) parent.append(part);
}

/** Draw the boxes of true objects, and in a map's cell that of the explained class.
 * @param {HTMLElement} parent
 * @param {object} sample
 * @param {object} content
 * @param {object} about */
export function drawBoxes(parent, sample, content, about) {
  const { look, row } = content;
  const detected = look?.boxes?.[row] ?? [];
  if (!detected.length && !sample.boxes?.length && !parent.childElementCount) return;
  const own = detected.map((corners, index) => [corners, look.box_classes[row][index], "detected"]);
  const explained = own.filter(([, index]) => index === look?.classes[row]).slice(0, 1);
  const truths = (sample.boxes ?? []).map((corners, index) => [corners, sample.box_classes[index], "true"]);
  const all = [...truths, ...explained];
  const key = JSON.stringify(all);
  if (parent.dataset.key === key) return;
  parent.dataset.key = key;
  parent.replaceChildren(...all.map((box) => boxElement(box, sample.size, about.class_names)));
}

function boxElement([[x1, y1, x2, y2], index, kind], [height, width], names) {
  const made = element("span", { class: `box ${kind}`, title: className(names, index) });
  const part = (length, whole) => `${(100 * Math.min(Math.max(length / whole, 0), 1)).toFixed(3)}%`;
  made.style.left = part(x1, width);
  made.style.top = part(y1, height);
  made.style.right = part(width - x2, width);
  made.style.bottom = part(height - y2, height);
  return made;
}
