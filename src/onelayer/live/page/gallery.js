// Rows of images with their classes and confidences: those of a cell of the confusion matrix, or the worst mistakes.

import {el} from "./dom.js";
import {canvasOf, paint} from "./pictures.js";

// Show the items in a section with a button that closes it, below a heading that takes the focus unless they come quietly.
export function show(section, heading, {rows, total}, {images}, names, onclose, quiet = false) {
  const taken = !quiet || section.contains(document.activeElement);
  const title = el("h3", {tabIndex: -1}, heading);
  const close = el("button", {type: "button", className: "small"}, "Close");
  close.addEventListener("click", () => {
    section.hidden = true;
    onclose?.();
  });
  const figures = rows.map((item, k) => {
    const confidence = `${Math.round(100 * item.probability)} %`;
    const words = item.true === item.predicted ? `${names[item.true]}, ${confidence}` : `${names[item.true]} taken for ${names[item.predicted]}, ${confidence}`;
    const caption = el("figcaption", {}, words);
    if (!images) return el("figure", {}, el("figcaption", {}, `row ${item.row}: ${words}`));
    const canvas = canvasOf(`Row ${item.row}`);
    paint(canvas, images, k);
    return el("figure", {}, canvas, caption);
  });
  const rest = total > rows.length ? [el("p", {className: "quiet"}, `The ${rows.length} most confident of ${total.toLocaleString("en")} are shown.`)] : [];
  section.replaceChildren(el("div", {className: "titled"}, title, close), el("div", {className: "gallery", tabIndex: 0, role: "group", "aria-label": heading}, ...figures), ...rest);
  section.hidden = false;
  if (taken) title.focus({preventScroll: true});
  if (!quiet) section.scrollIntoView({block: "nearest"});
}
