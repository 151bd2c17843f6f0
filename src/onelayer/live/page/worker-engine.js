// The engine in a worker, for a page without a server; to the page it is what `Connection` is.

export class WorkerEngine {
  onmessage = () => {};
  onstate = () => {};
  #worker = null;

  open() {
    this.#worker = new Worker(new URL("worker.js", import.meta.url), {type: "module"});
    this.#worker.onmessage = ({data: {message, arrays}}) => {
      if (message.type === "welcome") this.onstate("open");
      if (message.type === "kept") download(message.run, arrays.file.data);
      this.onmessage(message, arrays);
      if (message.type === "epoch") requestAnimationFrame(() => this.send({type: "drawn"}));
    };
    this.#worker.onerror = () => {
      const message = "the engine of this page cannot start: a file is missing, or this browser is too old";
      this.onmessage({type: "error", about: "train", message}, {});
    };
  }

  retry() {}

  get connected() {
    return this.#worker !== null;
  }

  get busy() {
    return false;
  }

  send(message, arrays = null) {
    this.#worker?.postMessage({message, arrays});
  }
}

function download(name, data) {
  const link = document.createElement("a");
  link.download = name;
  link.href = URL.createObjectURL(new Blob([data]));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
