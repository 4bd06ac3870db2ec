// The page: wires its parts together, and makes edits.

import { Exemplar, onChoice, showLines, takesFiles } from "./files.js";
import { Inversion } from "./invert.js";
import { listExamples, listOffered } from "./lists.js";
import { MaskCanvas } from "./mask-canvas.js";
import { listModels, pathFor } from "./models.js";
import { Results } from "./results.js";
import { ask, askJson, dataUrl, limitBodies, order } from "./server.js";
import { Settings } from "./settings.js";
import { Structure } from "./structure.js";
import { listenToKeys } from "./keys.js";
import { inWordsOfThePage } from "./words.js";

const GROWTH = 4; // pixels of the copy by which the mask grows or shrinks
const at = (id) => document.getElementById(id);
const pictureSection = at("picture");
let picture = null; // the file, its size and the address of its copy
let running = null; // what stops the running edit
let turn = 0; // number of the newest picture or mask that was asked about
let windowTimer = 0;

const choices = await (await ask("/page/choices")).json();
limitBodies(choices.limits.upload_mb);
const told = (part) => choices.parts.includes(part);
const canvas = new MaskCanvas(at("stage"), maskChanged);
const exemplar = new Exemplar(at("exemplar"), ready);
const structure = new Structure(at("structure"));
const settings = new Settings(at("order"), choices, askForWindow);
const inversion = new Inversion(at("order"), settings);
const results = new Results(at("results"), {
  continue: (file) => takePicture(file).then(() => pictureSection.scrollIntoView({ block: "start" })),
  "as-exemplar": (file) => exemplar.take(file).then(() => exemplar.section.scrollIntoView({ block: "center" })),
});
const take = { picture: takePicture, mask: takeMask, exemplar: (file) => exemplar.take(file) };

layModel();
listModels(at("model-field"), choices, layModel, fail);
takesFiles(pictureSection, takePicture);
onChoice(at("replace"), takePicture);
onChoice(at("mask").querySelector("input"), takeMask);
listOffered(at("offered"), choices, take, fail);
listExamples(at("examples"), choices, take, fail);
at("brush").addEventListener("input", (event) => (canvas.brush = Number(event.target.value)));
at("erase").addEventListener("click", toggleEraser);
for (const [id, act] of Object.entries({
  undo: () => canvas.undo(),
  redo: () => canvas.redo(),
  grow: () => canvas.grow(GROWTH),
  shrink: () => canvas.grow(-GROWTH),
  invert: () => canvas.invert(),
  clear: () => canvas.clear(),
  "save-mask": saveMask,
  stop: () => running?.abort(),
})) {
  at(id).addEventListener("click", act);
}
at("order").addEventListener("submit", (event) => {
  event.preventDefault();
  paint();
});
listenToKeys({
  undo: () => canvas.undo(),
  redo: () => canvas.redo(),
  smaller: () => setBrush(canvas.brush / 1.25),
  larger: () => setBrush(canvas.brush * 1.25),
  eraser: toggleEraser,
  edit: paint,
  save: () => results.save(),
});
// A file that misses its place would replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  (at("exemplar").matches(":hover") ? take.exemplar : take.picture)(file);
});
ready();
if (choices.start) {
  const start = await (await ask("/page/offered", { name: choices.start })).blob();
  await takePicture(new File([start], choices.start, { type: start.type }));
}
document.body.dataset.ready = "yes";

/** Show what the chosen model is told and offers. */
function layModel() {
  at("exemplar").hidden = !told("exemplar");
  at("prompt-field").hidden = !told("text");
  at("examples").hidden = !choices.examples.length || !told("exemplar");
  structure.lay(choices.maps);
  settings.showParts();
  inversion.lay(choices.invert);
  askForWindow();
}

/** Use a picture file; one that cannot be read leaves no picture there. The mask begins empty. */
async function takePicture(file) {
  const mine = ++turn;
  showLines(at("picture-notes"), ["reading the picture"]);
  try {
    const seen = await askJson("/page/look", { kind: "picture" }, file);
    if (mine !== turn) return;
    await canvas.show(seen.copy, [seen.width, seen.height]);
    picture = { file, width: seen.width, height: seen.height, copy: seen.copy };
    layPicture(seen.notes, "");
  } catch (error) {
    if (mine !== turn) return;
    picture = null;
    canvas.hide();
    layPicture([], error.message);
  }
}

/** Show a mask file on the picture as if it were painted. */
async function takeMask(file) {
  if (!picture) return layPicture([], "choose the picture first, then its mask");
  const mine = ++turn;
  try {
    const seen = await askJson("/page/mask", { width: picture.width, height: picture.height }, file);
    if (mine !== turn) return;
    await canvas.showMask(seen.copy, file);
    layPicture(seen.notes, "");
  } catch (error) {
    if (mine === turn) layPicture([], inWordsOfThePage(error.message));
  }
}

function layPicture(notes, error) {
  pictureSection.querySelector(".drop").hidden = Boolean(picture);
  at("tools").hidden = at("help").hidden = !picture;
  showLines(at("picture-notes"), notes.map(inWordsOfThePage));
  at("picture-error").textContent = error;
  ready();
}

function maskChanged() {
  at("undo").disabled = !canvas.past.length;
  at("redo").disabled = !canvas.future.length;
  ready();
  askForWindow();
}

function toggleEraser() {
  canvas.erasing = !canvas.erasing;
  at("erase").setAttribute("aria-pressed", canvas.erasing);
}

function setBrush(size) {
  at("brush").value = Math.round(size);
  canvas.brush = Number(at("brush").value);
}

/** Ask for the part of the picture that the model will see, once the mask rests. */
function askForWindow() {
  clearTimeout(windowTimer);
  windowTimer = setTimeout(async () => {
    const box = picture && canvas.box();
    if (!box || !choices.size) return canvas.showWindow(null);
    const [fit, context] = ["fit", "context"].map((name) => settings.field(name).value);
    const query = { width: picture.width, height: picture.height, ...box, fit, context, model: choices.model ?? "" };
    const seen = await askJson("/page/window", query).catch(() => ({ window: null }));
    canvas.showWindow(seen.window);
  }, 150);
}

function ready() {
  at("error").textContent = "";
}

function fail(error) {
  at("error").textContent = inWordsOfThePage(error.message);
}

/** What is marked on the canvas as a PNG of the picture's size. */
async function marked({ width, height }) {
  return (await ask("/page/strokes", { width, height }, await canvas.png())).blob();
}

/** The mask as a file of the picture's size, and whether its black is meant. */
async function maskFile(of) {
  return canvas.exact ?? { file: new File([await marked(of)], "mask.png", { type: "image/png" }), invert: false };
}

async function saveMask() {
  try {
    const mask = await marked(picture);
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(mask) });
    link.download = `${stem(picture)}-mask.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    fail(error);
  }
}

function stem(of) {
  return of.file.name.replace(/\.[^.]*$/, "") || "picture";
}

/** What the model is told, and the pictures; an inversion may go without a mask. */
async function subject(of, inverts) {
  if (!of) throw new Error("there is no picture yet; drop one into field 1");
  const prompt = told("text") ? at("prompt").value.trim() : "";
  if (told("exemplar") && !told("text") && !exemplar.file) {
    throw new Error("there is no exemplar yet; drop a picture of the object into field 2");
  }
  if (told("text") && !exemplar.file && !prompt) {
    throw new Error(told("exemplar") ? "say what to paint: by an exemplar, a prompt or both" : "say what to paint");
  }
  const found = { image: await dataUrl(of.file) };
  if (exemplar.file && told("exemplar")) found.exemplar = await dataUrl(exemplar.file);
  if (prompt) found[inverts ? "target" : "prompt"] = prompt;
  if (inverts && !canvas.box()) return found;
  const { file, invert } = await maskFile(of);
  return { ...found, mask: await dataUrl(file), invert_mask: invert };
}

/**
 * The orders to send for a picture: { path, content, entries }; several for several guidance scales. `entries` makes
 * what the list shows of an order, its answer and the picture: fields, tab and model may have changed by then.
 */
async function orders(of) {
  if (inversion.chosen) {
    const [path, values] = [pathFor("/api/invert", choices), inversion.values()];
    return [{ path, content: { ...(await subject(of, true)), ...values }, entries: inverted }];
  }
  const painter = choices.idle.includes("seed") ? (choices.model ?? choices.models[0]) || "edit" : "";
  const shared = { path: pathFor("/api/edit", choices), painter, entries: edited };
  const name = told("exemplar") ? "guidance_scale" : "text_guidance_scale";
  const values = settings.values();
  const scales = settings.sweep();
  const maps = choices.maps.length ? await structure.values() : {};
  const content = { ...(await subject(of, false)), ...values, structure: maps };
  if (!scales.length) return [{ ...shared, content }];
  return scales.map((scale) => ({ ...shared, content: { ...content, [name]: scale }, scale }));
}

async function paint() {
  if (running) return;
  running = new AbortController();
  layRunning(true, "preparing");
  const before = picture;
  const edits = [];
  try {
    const all = await orders(before);
    for (const [number, one] of all.entries()) {
      const from = all.length > 1 ? `edit ${number + 1} of ${all.length}: ` : "";
      layRunning(true, `${from}waiting for the model`);
      const answer = await order(one.path, one.content, running.signal, (done, total) => {
        layRunning(true, `${from}step ${done} of ${total}`, done / total);
      });
      edits.push(...one.entries(one, answer, before));
    }
    results.add(edits);
    layRunning(false, "");
    at("results").scrollIntoView({ behavior: "smooth", block: "start" });
  } catch (error) {
    if (edits.length) results.add(edits); // those before the one that ended here
    layRunning(false, error.name === "AbortError" ? "stopped" : "");
    if (error.name !== "AbortError") fail(error);
  } finally {
    running = null;
  }
}

/** The list's entries of the answer to an edit. */
function edited(one, answer, before) {
  const seconds = Object.values(answer.seconds).reduce((sum, value) => sum + value, 0);
  return answer.images.map((image) => {
    const name = one.painter || `seed ${image.seed}`;
    const label = "scale" in one ? `${name}, scale ${one.scale}` : name;
    return entry(image.png, before, label, `${label}, painted in ${seconds.toFixed(1)} s`, image.notes);
  });
}

/** The list's entries of the answer to an inversion: the edit, and the picture as it was found again. */
function inverted(one, answer, before) {
  const caption = `${inversion.caption(one.content, answer)}, in ${answer.seconds.toFixed(1)} s`;
  return [
    entry(answer.png, before, one.content.method, caption, answer.notes),
    entry(answer.reconstruction, before, "reconstruction", `reconstruction: ${caption}`, []),
  ];
}

function entry(png, before, label, caption, notes) {
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const name = `${stem(before)}-${label.replace(/[ ,]+/g, "-")}.png`;
  return {
    file: new File([bytes], name, { type: "image/png" }),
    before: before.copy,
    width: before.width,
    height: before.height,
    label,
    caption,
    notes: notes.map(inWordsOfThePage),
  };
}

function layRunning(now, text, share = null) {
  at("go").disabled = now;
  at("stop").disabled = !now;
  at("progress").hidden = !now;
  if (share === null) at("progress").removeAttribute("value");
  else at("progress").value = share;
  at("status").textContent = text;
  if (now) ready();
}
