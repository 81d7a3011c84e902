// The sheet: samples by methods. Two canvases for all that is in sight, images below and maps above, so that the opacity
// is one style; words, marks and boxes are elements.

import { blockView } from "./block.js";
import { element, placeElement, setText } from "./dom.js";
import { blockPlace, makeLayout } from "./layout.js";

const MARGIN = 20;
const WORDS_PITCH = 150; // milliseconds: of the words under quick steps nobody reads more
const RUN_LINE = 20; // the height of the line with the runs' names

/** Return the sheet.
 * @param {{onOpen: (cell: object) => void, onPoint: (cell: object|null) => void}} told
 * @returns {object} */
export function createSheet(told) {
  const images = element("canvas", { class: "images", "aria-hidden": "true" });
  const maps = element("canvas", { class: "maps", "aria-hidden": "true" });
  const blocks = element("div", { class: "blocks" });
  const content = element("div", { class: "content" }, images, maps, blocks);
  const headings = element("div", { class: "headings" });
  const root = element(
    "section",
    { class: "sheet", "aria-label": "Samples by methods", tabIndex: 0 },
    headings,
    content,
  );
  // images change rarely: off the page they are not copied at each step; maps keep the exact colors of a page's canvas
  const surfaces = [images.transferControlToOffscreen(), maps];
  const contexts = surfaces.map((surface) => surface.getContext("2d", { willReadFrequently: true }));
  const shown = new Map(); // by the sample's position
  let scene = null;
  let layout = null;
  let seen = "";
  let wordsTime = 0;
  let wordsTimer = 0;

  root.addEventListener("scroll", () => scene && draw(scene), { passive: true });
  blocks.addEventListener("click", (event) => withCell(event, told.onOpen));
  blocks.addEventListener("pointermove", (event) => told.onPoint(cellAt(event)));
  blocks.addEventListener("pointerleave", () => told.onPoint(null));

  function withCell(event, tell) {
    const cell = cellAt(event);
    if (cell) tell(cell);
  }

  function cellAt(event) {
    const button = event.target.closest(".cell");
    const block = button && shown.get(Number(button.dataset.sample));
    return block ? block.cellAt(button, event) : null;
  }

  /** Draw what is in sight.
   * @param {object} next What is shown; see `makeScene`. */
  function draw(next) {
    const isLaidAnew = !scene || scene.layoutKey !== next.layoutKey || root.clientWidth !== layout.pageWidth;
    scene = next;
    if (isLaidAnew) layOut();
    const rows = rowsInSight();
    const isMoved = isLaidAnew || rows.join() !== seen;
    if (isMoved) moveTo(rows);
    maps.style.opacity = scene.state.opacity;
    for (const block of shown.values()) block.drawCells(scene, contexts);
    const areWordsLate = !isMoved && performance.now() - wordsTime < WORDS_PITCH;
    clearTimeout(wordsTimer);
    if (areWordsLate) wordsTimer = setTimeout(drawWords, WORDS_PITCH);
    else drawWords();
    root.setAttribute("aria-busy", String(areWordsLate || scene.isLate()));
  }

  function drawWords() {
    wordsTime = performance.now();
    for (const block of shown.values()) block.drawWords(scene);
    root.setAttribute("aria-busy", String(scene.isLate()));
  }

  function layOut() {
    const ratio = window.devicePixelRatio || 1;
    const { samples, columns, state } = scene;
    const width = Math.max(0, root.clientWidth - 2 * MARGIN) * ratio;
    layout = makeLayout({ width, ratio, sizes: distinctSizes(samples), count: samples.length, columns }, state.cell);
    layout.pageWidth = root.clientWidth;
    content.style.height = `${(layout.rows * layout.rowHeight) / ratio}px`;
    content.style.width = `${(layout.perRow * layout.blockPitch) / ratio}px`;
    writeHeadings();
    seen = "";
    shown.clear();
    blocks.replaceChildren();
  }

  function writeHeadings() {
    const areTwo = scene.runs.length > 1;
    const parts = [];
    for (let block = 0; block < Math.min(layout.perRow, scene.samples.length); block++) {
      const { left } = blockPlace(layout, block);
      const groups = areTwo ? layout.groups : [];
      const names = groups.map((group, run) => {
        return heading("run", scene.runs[run].short, left + group.left, group.width, 0, scene.runs[run].name);
      });
      const top = areTwo ? RUN_LINE * layout.ratio : 0;
      const titles = scene.columns.map(({ title }, index) =>
        heading("method", title, left + layout.lefts[index], layout.cellWidth, top),
      );
      parts.push(...names, ...titles);
    }
    headings.classList.toggle("two", areTwo);
    headings.replaceChildren(...parts);
  }

  function heading(kind, words, left, width, top, whole = words) {
    const made = element("span", { class: kind, title: whole });
    setText(made, words);
    placeElement(made, left / layout.ratio, top / layout.ratio, width / layout.ratio);
    return made;
  }

  function rowsInSight() {
    const height = layout.rowHeight / layout.ratio;
    const first = Math.max(0, Math.floor((root.scrollTop - headings.offsetHeight) / height));
    const last = Math.min(layout.rows, Math.ceil((root.scrollTop + root.clientHeight) / height));
    return [first, Math.max(first, last)];
  }

  /** Bring the canvases and the blocks to the rows in sight, all of which are drawn anew. */
  function moveTo([first, last]) {
    seen = [first, last].join();
    const top = first * layout.rowHeight;
    const width = Math.max(1, layout.perRow * layout.blockPitch);
    const height = Math.max(1, (last - first) * layout.rowHeight);
    for (const surface of surfaces) [surface.width, surface.height] = [width, height];
    for (const canvas of [images, maps])
      placeElement(canvas, 0, top / layout.ratio, width / layout.ratio, height / layout.ratio);
    const inSight = scene.samples.slice(first * layout.perRow, last * layout.perRow);
    const positions = new Set(inSight.map(({ position }) => position));
    for (const [position, block] of shown) {
      if (!positions.has(position)) block.root.remove();
      if (!positions.has(position)) shown.delete(position);
    }
    inSight.forEach((sample, index) => {
      if (!shown.has(sample.position)) shown.set(sample.position, blockView(sample, scene, layout, blocks));
      shown.get(sample.position).moveTo(blockPlace(layout, first * layout.perRow + index), top);
    });
  }

  return { root, draw, layout: () => layout };
}

function distinctSizes(samples) {
  return [...new Map(samples.map(({ size }) => [size.join(), size])).values()];
}
