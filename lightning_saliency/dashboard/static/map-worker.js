// The thread that fetches maps and makes them ready to be shown.

import { httpSource } from "./source.js";

const server = httpSource("");

self.addEventListener("message", async ({ data: { number, request } }) => {
  try {
    const maps = await server.maps(...request);
    self.postMessage(
      { number, maps },
      maps.flatMap(({ levels, measures }) => [levels, ...resizedOf(measures)].map(({ buffer }) => buffer)),
    );
  } catch (fault) {
    self.postMessage({ number, fault: fault.message });
  }
});

function resizedOf(measures) {
  return [...measures.values()].map(({ resized }) => resized.values).filter(Boolean);
}
