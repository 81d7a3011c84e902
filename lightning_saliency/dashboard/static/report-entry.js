// The page in one file, which carries its data.

import { startApp } from "./app.js";
import { element } from "./dom.js";
import { fileSource } from "./source.js";

const reportMain = element("main", { class: "saliency", tabIndex: -1 });
document.body.replaceChildren(reportMain);
startApp(reportMain, fileSource(globalThis.SALIENCY_DATA));
