// The server's data, of which maps are fetched and made ready in a thread of their own, so that the page stays smooth.

import { httpSource } from "./source.js";

/** Return the source that asks a server.
 * @param {string} base Where its routes begin.
 * @returns {import("./source.js").Source} */
export function workerSource(base) {
  const worker = new Worker(new URL("map-worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let asked = 0;
  worker.addEventListener("message", ({ data: { number, maps, fault } }) => {
    const { resolve, reject } = waiting.get(number);
    waiting.delete(number);
    if (maps) resolve(maps);
    else reject(new Error(fault));
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message || "The maps' thread could not start."));
    waiting.clear();
  });
  const maps = (...request) =>
    new Promise((resolve, reject) => {
      waiting.set(++asked, { resolve, reject });
      worker.postMessage({ number: asked, request });
    });
  return { ...httpSource(base), maps };
}
