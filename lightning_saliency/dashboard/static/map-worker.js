// The thread that fetches, splits and measures maps.

import { httpSource } from "./source.js";

const server = httpSource("");

self.addEventListener("message", async ({ data: { number, request } }) => {
  try {
    const maps = await server.maps(...request);
    self.postMessage(
      { number, maps },
      maps.map(({ levels }) => levels.buffer),
    );
  } catch (fault) {
    self.postMessage({ number, fault: fault.message });
  }
});
