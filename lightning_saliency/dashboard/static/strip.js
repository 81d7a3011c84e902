// The filmstrip: one sample and method, all epochs as a row. Frames are drawn when they come into sight.

import { cellContent, withSlice } from "./block.js";
import { element, setText } from "./dom.js";
import { fittedSize } from "./layout.js";
import { mapPicture, pictureOf } from "./paint.js";

const FRAME = 88;

/** Return the filmstrip.
 * @param {(place: number) => void} onGo
 * @returns {object} */
export function createStrip(onGo) {
  const root = element("div", { class: "strip", role: "group", "aria-label": "This map at all looks" });
  const scratch = document.createElement("canvas");
  let frames = [];
  let drawnKey = "";
  let current = -1;
  let last = null;
  root.addEventListener("scroll", () => last && drawFrames(last), { passive: true });

  function update(cell, scene) {
    last = { cell, scene };
    const { column, sample } = cell;
    const key = [column.id, column.method, sample.position].join("\n");
    if (key !== drawnKey || frames.length !== scene.timeline.length) {
      drawnKey = key;
      current = -1;
      frames = scene.timeline.map(({ looks }, place) => frameView(looks[column.run], place, onGo));
      root.replaceChildren(...frames.map(({ root }) => root));
    }
    root.hidden = !column.method;
    mark(scene.place);
    drawFrames(last);
  }

  function mark(place) {
    if (place === current) return;
    frames[current]?.root.removeAttribute("aria-current");
    current = place;
    frames[place]?.root.setAttribute("aria-current", "true");
    const at = frames[place]?.root;
    if (at) root.scrollTo({ left: at.offsetLeft - root.clientWidth / 2 + at.offsetWidth / 2 });
  }

  function drawFrames({ cell, scene }) {
    const pitch = frames[0]?.root.offsetWidth || FRAME;
    const first = Math.max(0, Math.floor(root.scrollLeft / pitch) - 1);
    const count = Math.ceil(root.clientWidth / pitch) + 2;
    for (const frame of frames.slice(first, first + count)) frame.draw(cell, scene, scratch);
  }

  /** Return the looks in sight whose maps are wanted. */
  function wanted() {
    if (!last || root.hidden) return [];
    const pitch = frames[0]?.root.offsetWidth || FRAME;
    const first = Math.max(0, Math.floor(root.scrollLeft / pitch));
    const { column } = last.cell;
    const inSight = last.scene.timeline.slice(first, first + Math.ceil(root.clientWidth / pitch) + 1);
    const looks = inSight.map(({ looks }) => looks[column.run]).filter((look) => look?.methods[column.method]);
    return looks.map((look) => ({ id: column.id, method: column.method, look }));
  }

  return { root, update, wanted };
}

function frameView(look, place, onGo) {
  const canvas = element("canvas", { width: FRAME, height: FRAME, "aria-hidden": "true" });
  const label = look ? (look.epoch === null ? "initial" : `epoch ${look.epoch}`) : "none";
  const words = element("span", {}, label);
  const root = element(
    "button",
    { type: "button", class: "frame", "aria-label": `Go to ${label}`, click: () => onGo(place) },
    canvas,
    words,
  );
  let drawn = "";
  return {
    root,
    draw({ column, sample }, scene, scratch) {
      const { state, store } = scene;
      const isLoaded = look && store.has(column.id, column.method, look);
      const key = [
        isLoaded,
        state.scale,
        state.colors,
        state.opacity,
        state.slice,
        scene.ink,
        column.peaks && Object.keys(column.peaks).length,
      ].join();
      if (key === drawn || !look) return;
      drawn = key;
      const content = withSlice(cellContent({ ...column, shownLook: look }, sample, scene), state.slice);
      drawFrame(canvas, content, scene, scratch);
      setText(words, label);
    },
  };
}

function drawFrame(canvas, content, { state, ink }, scratch) {
  const { image, measure } = content;
  if (!image) return;
  const fitted = fittedSize(image.size, FRAME);
  [canvas.height, canvas.width] = fitted;
  const context = canvas.getContext("2d");
  context.putImageData(pictureOf(image, fitted, content.variant, content.slice, ink), 0, 0);
  if (!measure) return;
  [scratch.height, scratch.width] = fitted;
  scratch
    .getContext("2d")
    .putImageData(
      mapPicture(content.maps, measure, image.size, fitted, state.colors, content.factor, content.most),
      0,
      0,
    );
  context.globalAlpha = state.opacity;
  context.drawImage(scratch, 0, 0);
}
