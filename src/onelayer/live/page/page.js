// Wires the engine to the parts of the page: messages go to them as they come, pictures with the next frame of the screen.

import {Answer} from "./answer.js";
import {Confusion} from "./confusion.js";
import {chooseEngine} from "./connection.js";
import {Curves} from "./curves.js";
import {$, announce, atMost, counted, nats, percent, short, still, write} from "./dom.js";
import {classesOf, isImage, takeDrops} from "./drop.js";
import {show} from "./gallery.js";
import {Keep} from "./keep.js";
import {Knobs} from "./knobs.js";
import {Picture} from "./picture.js";
import {Reliability, TestRows} from "./reliability.js";
import {Teach} from "./teach.js";
import {Templates} from "./templates.js";

const SETTLED_EVERY = 200; // milliseconds between drawings of the matrix and of all that is slower than pictures
const STILL_EVERY = 1000; // milliseconds between pictures for those who asked for less motion

const MOST_DROPPED = 5000; // files of a class in a folder
const ERRORS = {image: "picture-words", cell: "rights-error", mistakes: "rights-error", "open-test": "test-result"};

const engine = await chooseEngine();
const send = (message, arrays) => engine.send(message, arrays);
const knobs = new Knobs();
const curves = new Curves();
const templates = new Templates();
const confusion = new Confusion(send);
const ofTest = new Confusion(send, "test", "test-confusion", "test-images");
const reliability = new Reliability();
const testRows = new TestRows(send);
const answer = new Answer(send);
const picture = new Picture(engine);
const teach = new Teach(engine);
const keep = new Keep(send);

let run = 0; // the newest training that was asked for
let asked = null; // its data, settings and mistakes
let begun = null; // the message `started` of it
let shown = null; // the data of which the parts show classes
let newest = null; // the frame to draw
let details = null; // the newest frame with confusion, reliability and patches
let answers = null;
let ended = null; // the message `ended` of the newest training
let connected = false;
let quiet = false; // the mistakes come again by themselves
let resending = false; // taught images, after which the training can begin

function train(values) {
  asked = values;
  run += 1;
  $("stop").disabled = false;
  if (connected) state("starting");
  send({type: "train", run, ...values});
}

// Show the classes of other data.
function arrange(data) {
  if (data.fingerprint === shown?.fingerprint && data.classes.join() === shown.classes.join()) return;
  const first = !shown;
  shown = data;
  const {title, sizes, classes} = data;
  write($("about-data"), `${title}: ${counted(sizes.train, "row")} to train on, ${counted(sizes.validation ?? 0, "row")} to validate, ${counted(classes.length, "class", "classes")}`);
  templates.classes(classes);
  knobs.images(Boolean(data.image_shape));
  confusion.classes(classes);
  answer.classes(classes);
  $("test-rows").hidden = !sizes.test;
  $("mistake-images").hidden = true;
  write($("rights-error"), "");
  $("yours-none").hidden = Boolean(data.image_shape);
  $("yours-how").hidden = $("yours-buttons").hidden = !data.image_shape;
  if (first) return;
  curves.forget();
  picture.again();
}

const drawNow = () => {
  if (newest) {
    templates.draw(newest.message, newest.arrays);
    curves.draw();
    figures();
  }
  if (answers) answer.show(...answers);
  answers = null;
};
let queued = false;
const drawSlowly = atMost(STILL_EVERY, drawNow);
function draw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    still.matches ? drawSlowly() : drawNow();
  });
}
const settle = atMost(SETTLED_EVERY, () => {
  if (!details) return;
  const {message, arrays} = details;
  const {confusion: counts, reliability: bins} = arrays;
  if (message.speaking) templates.patches(message, arrays);
  if (counts) {
    confusion.draw(counts);
    templates.recalls(counts);
  }
  if (bins) reliability.draw(bins);
});

// The numbers of this epoch.
function figures() {
  const row = curves.last;
  if (!row) return;
  const {accuracy, weights_norm: length, gradient_norm: slope} = newest.message;
  write($("epoch"), String(row.epoch));
  write($("epoch-name"), begun.epochs ? "epoch" : "iteration");
  write($("epochs"), begun.epochs > 0 ? `of ${begun.epochs}` : "");
  const wrong = begun.mistakes.includes("test-on-train");
  const [share, low, high] = (wrong ? accuracy.train : accuracy.validation) ?? [];
  write($("accuracy-name"), wrong ? "“test” accuracy, of training rows" : "validation accuracy");
  write($("accuracy"), percent(share));
  write($("interval"), `${percent(low)} to ${percent(high)}`);
  write($("train-accuracy"), percent(row.train_accuracy));
  write($("validation-loss"), nats(row.validation_loss));
  write($("train-loss"), nats(row.train_loss));
  write($("validation-cost"), nats(row.validation_cost));
  write($("train-cost"), nats(row.train_cost));
  write($("rate"), short(row.learning_rate));
  write($("weight-norm"), short(length));
  if (slope != null) write($("gradient-norm"), short(slope));
}

// Draw all that is left out while it trains, and say the result.
function finish() {
  drawNow();
  settle();
  curves.ended();
  setTimeout(() => { templates.settle(); confusion.settle(); reliability.settle(); }, SETTLED_EVERY + 50);
  const words = ended.why === "cancelled" ? `stopped after ${counted(ended.epoch, "epoch")}` : ended.why;
  state(words);
  const accuracy = $("accuracy").textContent;
  announce(`Training ended: ${words}. ${$("accuracy-name").textContent} ${accuracy}`);
}

function askMistakes(again) {
  quiet = again;
  send({type: "mistakes", split: "validation"});
}

const state = words => write($("state"), words);

const handlers = {
  welcome(message) {
    write($("version"), message.version);
    picture.limits(message.limits);
    teach.limits(message.limits);
    knobs.welcome(message);
    if (message.engine === "worker") {
      keep.onlyModel();
      testRows.since = "since this page was opened";
    }
    const given = message.data.find(({name}) => name === "given");
    if (!shown && given?.classes) arrange(given);
    picture.again();
    resending = asked?.data === "taught";
    if (!resending) train(asked ?? knobs.values);
  },
  started(message) {
    if (message.run !== run) return;
    arrange(message.data);
    newest = details = ended = null;
    begun = message;
    curves.started(message, asked.settings, knobs.knobs, message.mistakes);
    keep.started(message);
    testRows.clear();
    ofTest.clear();
    write($("train-error"), "");
    write($("note"), "");
    $("best").hidden = $("best-words").hidden = true;
    $("stop").disabled = false;
    $("with-mistake").hidden = !message.mistakes.length;
    state("training");
  },
  epoch(message, arrays) {
    if (message.run !== run) return;
    curves.add(message);
    newest = {message, arrays};
    if (arrays.reliability || message.speaking) details = newest;
    if (ended) return finish(); // one that was stopped sends its details last
    draw();
    settle();
  },
  ended(message) {
    if (message.run !== run) return;
    $("stop").disabled = true;
    ended = message;
    if (newest) {
      confusion.again();
      if (!$("mistake-images").hidden) askMistakes(true);
    }
    finish();
  },
  best(message) {
    if (message.run !== run) return;
    curves.best(message);
    write($("best-cost"), nats(message.cost));
    $("best").hidden = $("best-words").hidden = false;
  },
  answer(message, arrays) {
    if (!picture.is(message.id)) return;
    answers = [message, arrays];
    draw();
  },
  contributions(message, arrays) {
    if (picture.is(message.id)) answer.explain(message, arrays);
  },
  images(message, arrays) {
    if (message.about === "cell") return (message.split === "test" ? ofTest : confusion).images(message, arrays);
    show($("mistake-images"), "Most confident mistakes", message, arrays, shown.classes, () => $("show-mistakes").focus(), quiet);
  },
  test(message, {confusion: counts}) {
    testRows.show(message);
    if (!counts) return;
    ofTest.classes(shown.classes);
    ofTest.draw(counts);
    ofTest.settle();
  },
  taught: message => knobs.taught(teach.taught(message)),
  kept(message) {
    write($("note"), "");
    keep.kept(message);
  },
  note: ({about, done, total}) => write($("note"), `Working on ${about}: ${done.toLocaleString("en")}${total ? ` of ${total.toLocaleString("en")}` : ""} …`),
  error({about, message, id}) {
    write($("note"), "");
    if (about === "keep") keep.failed(message);
    else if (about === "teach") teach.failed(message, id);
    else if (about !== "explain") write($(ERRORS[about] ?? "train-error"), message);
    if (about === "train") state("not training");
  },
};

engine.onmessage = (message, arrays) => handlers[message.type]?.(message, arrays);
engine.onstate = now => {
  connected = now === "open";
  $("lost").hidden = connected;
  if (connected) {
    if ($("lost-words").textContent) announce("The server is back.");
    write($("lost-words"), "");
    return;
  }
  $("stop").disabled = $("keep-now").disabled = true;
  state("no server");
  write($("lost-words"), now === "refused"
    ? "The server does not know this page. Open the address that onelayer live printed."
    : "The server has stopped, or cannot be reached. What it showed last stays here; the page connects again when the server answers. If onelayer live was started anew, open the address that it printed.");
};
$("retry").addEventListener("click", () => engine.retry());
$("stop").addEventListener("click", () => send({type: "cancel"}));
$("again").addEventListener("click", () => train(knobs.values));
$("show-mistakes").addEventListener("click", () => askMistakes(false));
knobs.onchange = train;
picture.onforget = () => answer.clear();
teach.ontrain = () => knobs.take("taught");
teach.onresent = () => {
  if (resending) train(asked);
  resending = false;
};
answer.onunseen = () => picture.again();
takeDrops({
  onfiles: (files, target) => {
    const images = files.filter(isImage);
    if (!images.length) return picture.failed(`${files[0].name} is not an image.`);
    if (!teach.dropped(images, target)) picture.file(images[0]);
  },
  onfolder: async folder => teach.addAll(await classesOf(folder, MOST_DROPPED)),
});
engine.open();
