// Structure maps: of the picture, of the exemplar, or from a file; only for models that take them.

import { dataUrl } from "./server.js";

export class Structure {
  /** `fieldset`: gets a field for each map. */
  constructor(fieldset) {
    this.fieldset = fieldset;
    this.files = {};
    this.selects = {};
  }

  /** Offer the maps that the chosen model takes. */
  lay(maps) {
    this.fieldset.hidden = !maps.length;
    if (String(maps) === String(Object.keys(this.selects))) return;
    for (const select of Object.values(this.selects)) select.closest("label").remove();
    this.files = {};
    this.selects = {};
    for (const map of maps) {
      const label = Object.assign(document.createElement("label"), { className: "field", textContent: map });
      const select = document.createElement("select");
      const kinds = { "": "none", picture: "of the picture", exemplar: "of the exemplar", file: "a file" };
      for (const [value, text] of Object.entries(kinds)) select.append(new Option(text, value));
      select.dataset.map = map;
      const file = Object.assign(document.createElement("input"), { type: "file", accept: "image/*", hidden: true });
      file.addEventListener("change", () => (this.files[map] = file.files[0]));
      select.addEventListener("change", () => (file.hidden = select.value !== "file"));
      label.append(select, file);
      this.fieldset.append(label);
      this.selects[map] = select;
    }
  }

  /** The sources as the server takes them. */
  async values() {
    const found = {};
    for (const [map, select] of Object.entries(this.selects)) {
      if (select.value === "file") {
        if (!this.files[map]) throw new Error(`structure: choose the file of ${map}`);
        found[map] = await dataUrl(this.files[map]);
      } else if (select.value) {
        found[map] = select.value;
      }
    }
    return found;
  }
}
