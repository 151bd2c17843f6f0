// The engine behind a WebSocket: connects, says hello, and connects again when the server was away.

import {pack, unpack} from "./frames.js";

const REFUSED = 1008; // the server's code for a wrong token
const WAITS = [500, 1000, 2000, 4000]; // milliseconds before each try

export class Connection {
  onmessage = () => {};
  onstate = () => {}; // "open", "lost" or "refused"
  #socket = null;
  #tries = 0;
  #timer = 0;

  constructor(token) {
    this.token = token;
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.retry(); }); // after sleep
  }

  open() {
    clearTimeout(this.#timer);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = this.#socket = new WebSocket(`${scheme}://${location.host}/socket`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.send({type: "hello", token: this.token});
    socket.onmessage = ({data}) => {
      const {message, arrays} = typeof data === "string" ? {message: JSON.parse(data), arrays: {}} : unpack(data);
      if (message.type === "welcome") {
        this.onstate("open");
        this.#tries = 0;
      }
      this.onmessage(message, arrays);
    };
    socket.onclose = ({code}) => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      if (code === REFUSED) return this.onstate("refused");
      this.#timer = setTimeout(() => this.open(), WAITS[Math.min(this.#tries++, WAITS.length - 1)]);
      this.onstate("lost");
    };
  }

  // Try at once, if there is no connection.
  retry() {
    if (!this.#socket) this.open();
  }

  // True if the last messages still wait for the network, so that one more picture would only wait too.
  get busy() {
    return (this.#socket?.bufferedAmount ?? 0) > 1e6;
  }

  send(message, arrays = null) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(arrays ? pack(message, arrays) : JSON.stringify(message));
  }
}

// Return the engine of this page: the one in a worker where the page was written as plain files, else the server.
export async function chooseEngine() {
  if (document.documentElement.dataset.engine === "worker") {
    const {WorkerEngine} = await import("./worker-engine.js");
    return new WorkerEngine();
  }
  return new Connection(location.hash.slice(1).replace(/^token=/, ""));
}
