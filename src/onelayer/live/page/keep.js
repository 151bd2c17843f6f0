// The command line that does the same, and keeping the run of this moment as a directory.

import {$, counted, el, percent, write} from "./dom.js";

export class Keep {
  #command = "";
  #alone = false; // there is no server
  #timer = 0;

  constructor(send) {
    $("copy").addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(this.#command);
        this.#copied("Copied");
      } catch {
        getSelection().selectAllChildren($("command"));
        this.#copied("Selected: copy it with your keys");
      }
    });
    $("keep").addEventListener("submit", event => {
      event.preventDefault();
      write($("kept"), this.#alone ? "" : "Training once more, and writing …");
      $("keep-now").disabled = true;
      send({type: "keep", name: $("keep-name").value.trim(), report: $("keep-report").checked, onnx: $("keep-onnx").checked});
    });
  }

  #copied(words) {
    write($("copied"), words);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => write($("copied"), ""), 3000);
  }

  // Without a server there are no runs: the browser saves the model.
  onlyModel() {
    this.#alone = true;
    $("keep-title").textContent = "Keep this model";
    $("keep-now").textContent = "Download";
    $("keep-report").parentElement.hidden = $("keep-onnx").parentElement.hidden = true;
  }

  // A training began with this command; it is empty with a mistake on, and for images that only the page has.
  started({command, mistakes}) {
    this.#command = command;
    // A line may break before an option, not within one.
    const tokens = command.split(/ (?=--)/).flatMap((token, k) => [k ? " " : "", el("span", {}, token)]);
    $("command").replaceChildren(...command ? tokens : [mistakes.length ? "No command trains with a mistake; switch the mistakes off." : "No command trains on images that only this page has."]);
    $("command").classList.toggle("quiet", !command);
    $("copy").disabled = !command;
    $("keep-fields").disabled = mistakes.length > 0;
    $("keep-now").disabled = false;
    write($("keep-closed"), mistakes.length ? "Closed while a mistake is switched on." : "");
  }

  kept({run, path, files, accuracy: {validation, test}, times_read: times}) {
    $("keep-now").disabled = false;
    const scores = [["validation", validation], ["test", test]].filter(([, score]) => score != null).map(([name, score]) => `${name} accuracy ${percent(score)}`);
    const shown = files.filter(name => ["report.html", "model.onnx"].includes(name));
    $("kept").replaceChildren(el("b", {}, run), `: ${scores.join(", ")}. It lies in ${path}: ${counted(files.length, "file")}${shown.length ? `, with ${shown.join(" and ")}` : ""}. `, this.#alone ? "" : `A run holds its test accuracy, so the test rows were read ${counted(times, "time")}.`);
  }

  failed(message) {
    $("keep-now").disabled = false;
    write($("kept"), message);
  }
}
