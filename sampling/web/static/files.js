// Files that come to the page: by drop, by choice, from the clipboard; and the exemplar with its crop.

import { ask, askJson } from "./server.js";

/** Call take(file) for what is chosen in the section's first input, or dropped on the section. */
export function takesFiles(section, take) {
  onChoice(section.querySelector("input[type=file]"), take);
  for (const kind of ["dragenter", "dragover"]) {
    section.addEventListener(kind, (event) => {
      event.preventDefault();
      section.classList.add("over");
    });
  }
  section.addEventListener("dragleave", () => section.classList.remove("over"));
  section.addEventListener("drop", (event) => {
    event.preventDefault();
    section.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
}

/** Call take(file) for the file that is chosen in an input; the same file may be chosen again. */
export function onChoice(input, take) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    if (!file) return;
    const copy = new File([file], file.name, { type: file.type });
    take(copy).finally(() => (input.value = ""));
  });
}

/** Show lines in an element, one paragraph of text each. */
export function showLines(element, lines) {
  element.replaceChildren(...lines.map((line) => Object.assign(document.createElement("span"), { textContent: line })));
}

/** The exemplar: a picture file, and the part of it that is used. */
export class Exemplar {
  constructor(section, changed) {
    this.section = section;
    this.changed = changed;
    this.drop = section.querySelector(".drop");
    this.view = section.querySelector(".crop");
    this.image = this.view.querySelector("img");
    this.frame = this.view.querySelector(".frame");
    this.tools = section.querySelector(".tools");
    this.whole = null; // the file as it came
    this.file = null; // what is sent: the file, or a part of it
    this._turn = 0;
    takesFiles(section, (file) => this.take(file));
    section.querySelector("#uncrop").addEventListener("click", () => this._show(this.whole));
    section.querySelector("#no-exemplar").addEventListener("click", () => this.remove());
    this._listen();
  }

  /** Use a file; one that cannot be read leaves nothing there. */
  async take(file) {
    this.whole = file;
    await this._show(file);
  }

  remove() {
    this._turn++;
    this.whole = this.file = null;
    this._lay([], "");
  }

  async _show(file) {
    const turn = ++this._turn;
    try {
      const seen = await askJson("/page/look", { kind: "exemplar" }, file);
      if (turn !== this._turn) return;
      this.size = [seen.width, seen.height];
      this.image.src = seen.copy;
      this.file = file;
      this._lay(seen.notes, "");
    } catch (error) {
      if (turn !== this._turn) return;
      this.whole = this.file = null;
      this._lay([], error.message);
    }
  }

  _lay(notes, error) {
    this.drop.hidden = Boolean(this.file);
    this.view.hidden = this.tools.hidden = !this.file;
    this.frame.hidden = true;
    this.section.querySelector("#uncrop").hidden = !this.file || this.file === this.whole;
    showLines(this.section.querySelector(".notes"), notes);
    this.section.querySelector(".error").textContent = error;
    this.changed();
  }

  _listen() {
    let start = null;
    const box = (event) => {
      const frame = this.image.getBoundingClientRect();
      const share = (value, low, length) => Math.min(1, Math.max(0, (value - low) / length));
      return [share(event.clientX, frame.left, frame.width), share(event.clientY, frame.top, frame.height)];
    };
    const part = (event) => {
      const end = box(event);
      return [0, 1].map((axis) => [Math.min(start[axis], end[axis]), Math.max(start[axis], end[axis])]);
    };
    this.view.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary) return;
      event.preventDefault();
      this.view.setPointerCapture(event.pointerId);
      start = box(event);
    });
    this.view.addEventListener("pointermove", (event) => {
      if (!start) return;
      const [across, down] = part(event);
      this.frame.hidden = false;
      this.frame.style.left = `${100 * across[0]}%`;
      this.frame.style.top = `${100 * down[0]}%`;
      this.frame.style.width = `${100 * (across[1] - across[0])}%`;
      this.frame.style.height = `${100 * (down[1] - down[0])}%`;
    });
    this.view.addEventListener("pointerup", (event) => {
      if (!start) return;
      const [across, down] = part(event);
      start = null;
      this.frame.hidden = true;
      this._crop(across, down);
    });
    this.view.addEventListener("pointercancel", () => (start = null));
  }

  async _crop(across, down) {
    const [width, height] = this.size;
    const query = {
      x0: Math.floor(across[0] * width),
      y0: Math.floor(down[0] * height),
      x1: Math.ceil(across[1] * width),
      y1: Math.ceil(down[1] * height),
    };
    if (query.x1 - query.x0 < 8 || query.y1 - query.y0 < 8) return; // a click
    const turn = ++this._turn;
    try {
      const cut = await (await ask("/page/cut", query, this.file)).blob();
      if (turn === this._turn) await this._show(new File([cut], "exemplar.png", { type: "image/png" }));
    } catch (error) {
      this.section.querySelector(".error").textContent = error.message;
    }
  }
}
