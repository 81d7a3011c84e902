// Where everything stands on the sheet, in pixels of the device.

const GAP = 6; // between cells
const GROUP_GAP = 18; // between runs
const BLOCK_GAP = 28; // between samples side by side
const ROW_GAP = 18;
const LEAST_BLOCK = 170;
const WORDS_OF_LINES = [420, 150]; // a group that is narrower breaks its words into two lines, into three
const LINE = 18;
const SIGNAL_ASPECT = 1.5;

const [LEAST_CELL, MOST_CELL, CELL_STEP] = [128, 192, 16]; // where no size is asked for

/** Return the height and the width at which an image is shown: small ones are enlarged by a whole number.
 * @param {number[]} size Of the image: (H, W), a volume's (D, H, W), a signal's (T,).
 * @param {number} cell The most that a side has, in pixels.
 * @returns {number[]} */
export function fittedSize(size, cell) {
  if (size.length === 1) return [Math.round(cell / SIGNAL_ASPECT), cell];
  const [height, width] = size.slice(-2);
  const side = Math.max(height, width);
  const scale = side <= cell ? Math.floor(cell / side) : cell / side;
  return [height, width].map((length) => Math.max(1, Math.round(length * scale)));
}

/** @typedef {object} Layout
 * @property {number} ratio Of the device's pixels to the page's.
 * @property {number} perRow
 * @property {number} rows
 * @property {number} blockWidth
 * @property {number} blockPitch
 * @property {number} rowHeight
 * @property {number} captionHeight
 * @property {number} captionLines
 * @property {number} cell The length of a cell, in pixels of the page.
 * @property {number} drawn The longest side of an image in its cell, in pixels of the page.
 * @property {number} cellSide The most that a side of a cell has.
 * @property {number} cellWidth
 * @property {number} cellHeight
 * @property {number[]} lefts Of each column, in its block.
 * @property {{left: number, width: number}[]} groups Of each run.
 * @property {number} left */

/** @typedef {{width: number, ratio: number, sizes: number[][], count: number, columns: {run: number}[]}} Page */

/** Return where the samples' blocks, their columns and words stand.
 * @param {Page} page
 * @param {number|null} cell The length of a cell; null for the largest one that takes no more rows and fits the width.
 * @returns {Layout} */
export function makeLayout(page, cell) {
  if (cell !== null) return layoutOf(page, cell);
  const least = layoutOf(page, LEAST_CELL);
  for (let larger = MOST_CELL; larger > LEAST_CELL; larger -= CELL_STEP) {
    const layout = layoutOf(page, larger);
    if (layout.rows === least.rows && layout.blockWidth <= page.width) return layout;
  }
  return least;
}

function layoutOf({ width, ratio, sizes, count, columns }, cell) {
  const px = (length) => Math.round(length * ratio);
  const cellSide = px(cell);
  const fitted = sizes.map((size) => fittedSize(size, cellSide));
  const cellWidth = Math.max(px(24), ...fitted.map((size) => size[1]));
  const cellHeight = Math.max(px(24), ...fitted.map((size) => size[0]));
  const lefts = [];
  let end = 0;
  columns.forEach(({ run }, index) => {
    if (index) end += px(run === columns[index - 1].run ? GAP : GROUP_GAP);
    lefts.push(end);
    end += cellWidth;
  });
  const groups = groupsOf(columns, lefts, cellWidth);
  const blockWidth = Math.max(end, px(LEAST_BLOCK));
  if (groups.length === 1) groups[0].width = blockWidth;
  const blockPitch = blockWidth + px(BLOCK_GAP);
  const perRow = Math.max(1, Math.min(Math.max(count, 1), Math.floor((width + px(BLOCK_GAP)) / blockPitch)));
  const narrowest = Math.min(...groups.map((group) => group.width));
  const captionLines = 1 + WORDS_OF_LINES.filter((width) => narrowest < px(width)).length;
  const captionHeight = px(captionLines * LINE) + px(4);
  const rowHeight = captionHeight + cellHeight + px(ROW_GAP);
  const rows = Math.ceil(count / perRow);
  return {
    ratio,
    perRow,
    rows,
    blockWidth,
    blockPitch,
    rowHeight,
    captionHeight,
    captionLines,
    cell,
    drawn: Math.round(Math.max(0, ...fitted.flat()) / ratio),
    cellSide,
    cellWidth,
    cellHeight,
    lefts,
    groups,
    left: 0,
  };
}

function groupsOf(columns, lefts, cellWidth) {
  const groups = [];
  columns.forEach(({ run }, index) => {
    groups[run] ??= { left: lefts[index], width: 0 };
    groups[run].width = lefts[index] + cellWidth - groups[run].left;
  });
  return groups;
}

/** Return where a sample's block begins.
 * @param {Layout} layout
 * @param {number} index
 * @returns {{left: number, top: number}} */
export function blockPlace(layout, index) {
  return {
    left: layout.left + (index % layout.perRow) * layout.blockPitch,
    top: Math.floor(index / layout.perRow) * layout.rowHeight,
  };
}
