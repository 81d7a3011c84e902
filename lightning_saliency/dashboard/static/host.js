// What surrounds the page: TensorBoard's own page, a browser's tab or a frame that allows nothing. All of it is guarded,
// since a frame of another origin may refuse each of these.

const PREFIX = "p.saliency.";

/** Return what a call gives, or the other value where the surroundings refuse it.
 * @template T
 * @param {() => T} call
 * @param {T} otherwise
 * @returns {T} */
export function allowed(call, otherwise) {
  try {
    return call();
  } catch (fault) {
    if (fault instanceof DOMException || fault instanceof TypeError) return otherwise;
    throw fault;
  }
}

/** Return the window whose address a person sees. */
function outerWindow() {
  return allowed(() => (window.parent.location.hash === undefined ? window : window.parent), window);
}

/** Follow the theme: the dark one of TensorBoard, else the system's.
 * @param {(isDark: boolean) => void} tell */
export function followTheme(tell) {
  const body = allowed(() => (window.parent === window ? null : window.parent.document.body), null);
  const query = window.matchMedia("(prefers-color-scheme: dark)");
  const isBoard = body !== null && body.querySelector("tb-webapp") !== null;
  const now = () => tell(isBoard ? body.classList.contains("dark-mode") : query.matches);
  if (isBoard) new MutationObserver(now).observe(body, { attributes: true, attributeFilter: ["class"] });
  query.addEventListener("change", now);
  now();
}

/** Return what the address says of the page.
 * @returns {URLSearchParams} */
export function readAddress() {
  const hash = allowed(() => outerWindow().location.hash, "");
  const parts = hash
    .replace(/^#/, "")
    .split("&")
    .filter((part) => part.startsWith(PREFIX));
  return new URLSearchParams(parts.map((part) => part.slice(PREFIX.length)).join("&"));
}

/** Write what is shown into the address, beside what others have written there.
 * @param {URLSearchParams} text */
export function writeAddress(text) {
  const outer = outerWindow();
  const hash = allowed(() => outer.location.hash, "");
  const others = hash
    .replace(/^#/, "")
    .split("&")
    .filter((part) => part && !part.startsWith(PREFIX));
  const own = [...text].map(([name, word]) => `${PREFIX}${name}=${encodeURIComponent(word)}`);
  const next = `#${[...others, ...own].join("&")}`;
  if (next !== hash && !(next === "#" && !hash))
    allowed(
      () => outer.history.replaceState(outer.history.state, "", outer.location.pathname + outer.location.search + next),
      null,
    );
}

/** Return whether the page is in sight: a hidden tab of TensorBoard is not laid out, and fires no event.
 * @returns {boolean} */
export function isInSight() {
  return window.innerHeight > 0 && document.documentElement.getClientRects().length > 0 && !document.hidden;
}
