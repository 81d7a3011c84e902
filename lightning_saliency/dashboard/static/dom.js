// Elements of the page. Words are always set as text.

/** Return a new element.
 * @param {string} name
 * @param {Object<string, *>} [properties] `class`, attributes with a dash or of ARIA, event handlers, else properties.
 * @param {...(Node|string)} children
 * @returns {HTMLElement} */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) setProperty(made, key, value);
  made.append(...children);
  return made;
}

function setProperty(made, key, value) {
  if (key === "class") made.className = value;
  else if (key === "role" || key.includes("-")) made.setAttribute(key, value);
  else if (typeof value === "function") made.addEventListener(key, value);
  else made[key] = value;
}

/** Return a new element of a drawing.
 * @param {string} name
 * @param {Object<string, string|number>} attributes
 * @returns {SVGElement} */
export function svgElement(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Set the words of an element that holds nothing else, only where they are others.
 * @param {Node} target
 * @param {string} words */
export function setText(target, words) {
  const text = target.firstChild;
  if (!text) target.append(words);
  else if (text.data !== words) text.data = words; // which lays out less anew than a new node
}

/** Place an element, in pixels.
 * @param {HTMLElement} target
 * @param {number} left
 * @param {number} top
 * @param {number} [width]
 * @param {number} [height] */
export function placeElement(target, left, top, width, height) {
  target.style.left = `${left}px`;
  target.style.top = `${top}px`;
  if (width !== undefined) target.style.width = `${width}px`;
  if (height !== undefined) target.style.height = `${height}px`;
}
