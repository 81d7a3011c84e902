// Where the data comes from: TensorBoard's server, or the page itself. Both sources have the same methods.

import { splitMaps } from "./maps.js";

/** @typedef {object} Source
 * @property {boolean} isLive Whether what it gives may grow.
 * @property {() => Promise<{runs: object[], is_scanning: boolean}>} runs
 * @property {(id: string) => Promise<object>} about
 * @property {(id: string) => Promise<Uint8Array>} images
 * @property {(id: string, method: string) => Promise<Object<string, ([number, number]|null)[]>>} peaks
 * @property {(id: string, method: string, looks: LookOfMaps[], view: import("./maps.js").View) =>
 *   Promise<import("./maps.js").Maps[]>} maps */

/** @typedef {{key: string, shapes: number[][], sizes: number[][]}} LookOfMaps */

/** Return the source that asks a server.
 * @param {string} base Where its routes begin.
 * @returns {Source} */
export function httpSource(base) {
  const ask = async (route, parameters = {}) => {
    const response = await fetch(`${base}${route}?${new URLSearchParams(parameters)}`);
    if (!response.ok) throw new Error(await refusal(response));
    return response;
  };
  const json = async (...asked) => (await ask(...asked)).json();
  const bytes = async (...asked) => new Uint8Array(await (await ask(...asked)).arrayBuffer());
  return {
    isLive: true,
    runs: () => json("runs"),
    about: (id) => json("about", { id }),
    images: (id) => bytes("images", { id }),
    peaks: async (id, method) => (await json("peaks", { id, method })).peaks,
    maps: async (id, method, looks, view) => {
      const came = await bytes("maps", { id, method, looks: looks.map(({ key }) => key).join(",") });
      return splitMaps(came, looks, view);
    },
  };
}

async function refusal(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error || `${response.status} ${response.statusText}`;
  } catch {
    return `${response.status} ${response.statusText}`; // a proxy's own page, not an answer of the server
  }
}

/** Return the source that reads what a page carries.
 * @param {{runs: object, about: object, images: object, peaks?: object, maps: object}} data
 * @returns {Source} */
export function fileSource(data) {
  return {
    isLive: false,
    runs: async () => data.runs,
    about: async (id) => entryOf(data.about, id),
    images: async (id) => inflated(entryOf(data.images, id)),
    peaks: async (id, method) => data.peaks?.[id]?.[method] ?? {},
    maps: async (id, method, looks, view) => {
      const ofMethod = entryOf(entryOf(data.maps, id), method);
      const each = looks.map(async (look) => splitMaps(await inflated(entryOf(ofMethod, look.key)), [look], view));
      return (await Promise.all(each)).flat();
    },
  };
}

function entryOf(entries, key) {
  if (!Object.hasOwn(entries, key)) throw new Error(`This page does not hold ${key}.`);
  return entries[key];
}

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
