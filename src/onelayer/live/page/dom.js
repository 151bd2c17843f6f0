// Small helpers to make elements, write numbers and speak to screen readers.

export const $ = id => document.getElementById(id);

// Make an element. Names with a dash, and those below, become attributes; others are set as properties.
const ATTRIBUTES = new Set(["role", "for", "list", "scope", "colspan"]);
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || ATTRIBUTES.has(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

// Change a text only where it differs, so that nothing is laid out again for nothing.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const percent = share => share == null || Number.isNaN(share) ? "–" : `${(100 * share).toFixed(2)} %`;
export const nats = value => value == null || Number.isNaN(value) ? "–" : Math.abs(value) < 1e4 ? value.toFixed(4) : value.toExponential(3);
export const counted = (n, noun, plural = `${noun}s`) => `${n.toLocaleString("en")} ${n === 1 ? noun : plural}`;
export function short(value) {
  if (value == null || Number.isNaN(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}
export const signedShort = value => (value < 0 ? "−" : "+") + short(Math.abs(value));

// Say a sentence to screen readers: only the last of those that come within a second.
let waiting = 0;
export function announce(text) {
  clearTimeout(waiting);
  waiting = setTimeout(() => { $("announced").textContent = text; }, 1000);
}

// Return a function that runs at most once in this many milliseconds, and last of all with the newest arguments.
export function atMost(every, run) {
  let last = -Infinity;
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    const wait = last + every - performance.now();
    const now = () => { last = performance.now(); run(...args); };
    if (wait <= 0) now();
    else timer = setTimeout(now, wait);
  };
}

export const still = matchMedia("(prefers-reduced-motion: reduce)");
export const dark = matchMedia("(prefers-color-scheme: dark)");
