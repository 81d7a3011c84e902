// Pixels of cells: images at a cell's size, and maps as colors over them.

import { valuesAt } from "./maps.js";
import { colorTable, DIVERGING } from "./palette.js";
import { levelsOf, PADDING, resample, resampling } from "./scaling.js";

const LUMA = [0.299, 0.587, 0.114]; // of red, green and blue
const DARK = 0.4; // the brightness of the image under a fine map
const DIMMED = 0.5; // that of an image whose map is blank
const MOST_PICTURES = 6; // kept of an image
const MIDDLE = 128; // of a signed color map
const BRIGHTNESS = levelsOf(0, 255, false);

/** Return an image at a size, made once.
 * @param {object} image As the store holds it.
 * @param {number[]} fitted [h, w]
 * @param {"plain"|"dark"|"dimmed"} variant Dark gray under fine maps, dimmed where the map is blank.
 * @param {number} slice Of a volume.
 * @param {number[]} ink The color of curves.
 * @returns {ImageData} */
export function pictureOf(image, fitted, variant, slice, ink) {
  const key = [...fitted, variant, slice, ink].join(" ");
  const { pictures } = image;
  if (!pictures.has(key)) {
    if (pictures.size >= MOST_PICTURES * image.size.length) pictures.clear();
    pictures.set(key, drawnPicture(image, fitted, variant, slice, ink));
  }
  return pictures.get(key);
}

function drawnPicture(image, fitted, variant, slice, ink) {
  if (image.size.length === 1) return drawnCurves(image, fitted, variant === "dimmed" ? DIMMED : 1, ink);
  const rgb = resizedImage(slicePixels(image, slice), image.size.slice(-2), fitted);
  const picture = new ImageData(fitted[1], fitted[0]);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    const gray =
      variant === "dark"
        ? Math.round((LUMA[0] * rgb[from] + LUMA[1] * rgb[from + 1] + LUMA[2] * rgb[from + 2]) * DARK)
        : 0;
    for (let channel = 0; channel < 3; channel++) {
      const value = rgb[from + channel];
      picture.data[to + channel] = variant === "plain" ? value : variant === "dark" ? gray : Math.round(value * DIMMED);
    }
    picture.data[to + 3] = 255;
  }
  return picture;
}

/** Return the three interleaved channels of an image or of a volume's slice. */
function slicePixels({ pixels, size, channels }, slice) {
  if (size.length === 2) return pixels;
  const area = size[1] * size[2];
  const own = pixels.subarray(slice * area * channels, (slice + 1) * area * channels);
  return channels === 3
    ? own
    : Uint8Array.from({ length: 3 * area }, (_, place) => own[Math.floor(place / 3) * channels]);
}

function resizedImage(rgb, [height, width], [toHeight, toWidth]) {
  if (height === toHeight && width === toWidth) return rgb;
  return toHeight > height || toWidth > width
    ? enlarged(rgb, [height, width], [toHeight, toWidth])
    : antialiased(rgb, [height, width], [toHeight, toWidth]);
}

function enlarged(rgb, [height, width], [toHeight, toWidth]) {
  const out = new Uint8Array(toHeight * toWidth * 3);
  for (let y = 0, to = 0; y < toHeight; y++) {
    const row = Math.floor((y * height) / toHeight) * width;
    for (let x = 0; x < toWidth; x++, to += 3) {
      const from = 3 * (row + Math.floor((x * width) / toWidth));
      out[to] = rgb[from];
      out[to + 1] = rgb[from + 1];
      out[to + 2] = rgb[from + 2];
    }
  }
  return out;
}

function antialiased(rgb, [height, width], [toHeight, toWidth]) {
  const [down, across] = [resampling(height, height, toHeight), resampling(width, width, toWidth)];
  const [plane, mixed] = [new Uint8Array((height + PADDING) * width), new Int32Array(toHeight * toWidth)];
  const out = new Uint8Array(toHeight * toWidth * 3);
  for (let channel = 0; channel < 3; channel++) {
    for (let place = 0; place < height * width; place++) plane[place] = rgb[3 * place + channel];
    resample(plane, 0, width, BRIGHTNESS.table, down, across, mixed);
    for (let place = 0; place < mixed.length; place++)
      out[3 * place + channel] = Math.round(mixed[place] * BRIGHTNESS.unit);
  }
  return out;
}

function drawnCurves({ pixels, size, channels }, [height, width], opacity, ink) {
  const picture = new ImageData(width, height);
  const strip = height / channels;
  const length = size[0];
  const levelAt = (channel, place) => pixels[channel * length + Math.min(length - 1, Math.max(0, Math.round(place)))];
  for (let channel = 0; channel < channels; channel++) {
    const yAt = (place) => Math.round((channel + 0.92 - (0.84 * levelAt(channel, place)) / 255) * strip);
    for (let x = 0; x < width; x++) {
      const ends = [x, x + 1].map((edge) => yAt((edge / width) * (length - 1)));
      for (let y = Math.min(...ends); y <= Math.max(...ends); y++) {
        picture.data.set([...ink, 255 * opacity], 4 * (Math.min(height - 1, y) * width + x));
      }
    }
  }
  return picture;
}

let mapColors = new ImageData(1, 1);
let painted = new Uint32Array(mapColors.data.buffer);

/** Return a map's colors, each as opaque as its value is large; the next call writes over them.
 * @param {import("./maps.js").Maps} maps
 * @param {import("./maps.js").Measure} measure
 * @param {number[]} size Of the image.
 * @param {number[]} fitted [h, w] of the cell.
 * @param {string} colors The color map.
 * @param {number} factor Of the map's own scale, to what is shown.
 * @param {number} most What values are cut at.
 * @returns {ImageData} */
export function mapPicture(maps, measure, size, fitted, colors, factor, most) {
  const [height, width] = fitted;
  if (mapColors.width !== width || mapColors.height !== height) {
    mapColors = new ImageData(width, height);
    painted = new Uint32Array(mapColors.data.buffer);
  }
  const values = valuesAt(maps, measure, size, fitted);
  paintValues(values, painted, colorTable(colors), measure, factor, most, colors === DIVERGING);
  return mapColors;
}

function paintValues(from, to, table, { low, unit, gain }, factor, most, isSigned) {
  const half = isSigned ? MIDDLE : 256;
  const middle = isSigned ? MIDDLE : 0;
  const scale = gain * factor * half;
  const [begin, step] = [middle + low * scale, unit * scale];
  const top = Math.min(255, middle + most * half) | 0;
  const bottom = isSigned ? Math.max(0, middle - most * half) | 0 : 0;
  for (let place = 0; place < to.length; place++) {
    const index = (begin + from[place] * step) | 0;
    to[place] = table[Math.max(bottom, Math.min(top, index))];
  }
}
