// The tab in TensorBoard, which imports this module and calls `render`.

import { startApp } from "./app.js";
import { element } from "./dom.js";
import { workerSource } from "./worker-source.js";

/** Show the tab. */
export function render() {
  document.head.append(element("link", { rel: "stylesheet", href: new URL("style.css", import.meta.url).href }));
  const main = element("main", { class: "saliency", tabIndex: -1 });
  document.body.replaceChildren(main);
  startApp(main, workerSource(""));
}
