// The tab in TensorBoard, which imports this module and calls `render`.

import { startApp } from "./app.js";
import { element } from "./dom.js";
import { workerSource } from "./worker-source.js";

/** Show the tab. */
export function render() {
  document.documentElement.lang = "en";
  document.title = "Saliency";
  const main = element("main", { class: "saliency", tabIndex: -1 });
  const start = () => startApp(main, workerSource("")); // not before words can be measured as they will stand
  const href = new URL("style.css", import.meta.url).href;
  document.head.append(element("link", { rel: "stylesheet", href, load: start, error: start }));
  document.body.replaceChildren(main);
}
