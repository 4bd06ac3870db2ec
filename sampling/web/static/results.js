// The edits that were made: before and after, notes, downloads.

import { showLines } from "./files.js";

const KEPT = 60; // edits in the list

export class Results {
  /** `use`: functions of a file, by the id of their button. */
  constructor(section, use) {
    this.section = section;
    this.gallery = section.querySelector("#gallery");
    this.compare = section.querySelector("#compare");
    this.all = [];
    this.chosen = null;
    const cut = section.querySelector("#cut");
    const move = () => this.compare.style.setProperty("--cut", `${cut.value}%`);
    cut.addEventListener("input", move);
    move();
    for (const [id, take] of Object.entries(use)) {
      section.querySelector(`#${id}`).addEventListener("click", () => this.chosen && take(this.chosen.file));
    }
    section.querySelector("#forget").addEventListener("click", () => {
      this.all.forEach((one) => URL.revokeObjectURL(one.address));
      this.all = [];
      this.chosen = null;
      this._lay();
    });
  }

  /** Add an edit: { file, before, width, height, label, caption, notes }; the newest run comes first. */
  add(edits) {
    for (const one of edits) one.address = URL.createObjectURL(one.file);
    this.all = [...edits, ...this.all];
    for (const old of this.all.splice(KEPT)) URL.revokeObjectURL(old.address);
    this.choose(edits[0]);
  }

  choose(one) {
    this.chosen = one;
    this._lay();
    this.compare.querySelector(".before").src = one.before;
    this.compare.querySelector(".after").src = one.address;
    this.compare.style.setProperty("--ratio", one.width / one.height);
    this.section.querySelector("#caption").textContent = one.caption;
    showLines(this.section.querySelector("#notes"), one.notes);
    const link = this.section.querySelector("#download");
    link.href = one.address;
    link.download = one.file.name;
  }

  save() {
    if (this.chosen) this.section.querySelector("#download").click();
  }

  _lay() {
    this.section.hidden = !this.all.length;
    this.gallery.replaceChildren(
      ...this.all.map((one) => thumb(one.address, one.label, () => this.choose(one), one === this.chosen)),
    );
  }
}

/** A small picture with a caption, as a button. */
export function thumb(address, caption, act, pressed = false) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "thumb" });
  const image = Object.assign(document.createElement("img"), { loading: "lazy", alt: "" });
  image.src = address;
  button.setAttribute("aria-pressed", pressed);
  button.append(image, Object.assign(document.createElement("span"), { textContent: caption }));
  button.addEventListener("click", () => act(button));
  return button;
}
