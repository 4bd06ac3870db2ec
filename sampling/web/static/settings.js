// The settings of an edit: fields, presets, and what the browser remembers of them.

const KEY = "intarsia.settings";
const OWN = ["sweep"]; // fields that are no settings of one edit
const EMPTY = { "invert.source": "", "invert.words": "", "invert.coupling": "", "invert.strength": "" };

export class Settings {
  /** `form`: has a field for each setting, by its name; `choices`: what the server offers. */
  constructor(form, choices, changed) {
    this.form = form;
    this.choices = choices;
    this.changed = changed;
    this.showParts();
    this.field("num_images").max = choices.limits.num_images;
    this.names = [...form.querySelectorAll("[name]")].map((field) => field.name);
    this._addPresets();
    this.defaults = { ...choices.defaults, sweep: "", ...EMPTY };
    this.set({ ...this.defaults, ...remembered() });
    form.addEventListener("input", () => this._keep());
    form.querySelector("#reset").addEventListener("click", () => this.set(this.defaults));
    form.querySelector("#new-seed").addEventListener("click", () => {
      this.set({ seed: Math.floor(Math.random() * 1e6) });
    });
  }

  /** Show the fields of what the model is told, and of the settings that have an effect, with their choices. */
  showParts() {
    for (const [name, values] of Object.entries(this.choices.choices)) {
      const field = this.field(name);
      const chosen = field.value;
      field.replaceChildren(...values.map((value) => new Option(value, value)));
      if (values.includes(chosen)) field.value = chosen;
    }
    const idle = new Set(this.choices.idle);
    for (const field of this.form.querySelectorAll("[name]")) {
      field.closest("label")?.classList.toggle("idle", idle.has(field.name));
    }
    this.form.querySelector("#presets").classList.toggle("idle", idle.has("num_inference_steps"));
    for (const part of this.form.querySelectorAll("[data-part]")) {
      part.hidden = !this.choices.parts.includes(part.dataset.part);
    }
  }

  field(name) {
    return this.form.querySelector(`[name="${name}"]`);
  }

  /** Set fields by name; unknown names, and choices that are not offered, are left out. */
  set(values) {
    for (const name of this.names) {
      const field = this.field(name);
      if (!(name in values)) continue;
      if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === values[name])) continue;
      field.value = values[name];
    }
    this._keep();
  }

  /** The settings of an order, by names that begin with `prefix`; only those that have an effect. */
  values(prefix = "") {
    const found = {};
    for (const name of this.names) {
      const field = this.field(name);
      const own = prefix ? name.startsWith(prefix) : !name.includes(".");
      if (!own || OWN.includes(name) || field.closest("[data-part][hidden], .idle")) continue;
      const number = field.type === "number";
      if (number && field.value === "" && "optional" in field.dataset) continue;
      if (number && field.value === "") throw new Error(`${labelOf(field)}: give a number`);
      found[name.slice(prefix.length)] = number ? Number(field.value) : field.value;
    }
    return found;
  }

  /** The guidance scales to compare; empty for the one of the field. */
  sweep() {
    if (this.field("sweep").closest(".idle")) return [];
    const text = this.field("sweep").value.trim();
    const scales = text ? text.split(/[\s,;]+/).filter(Boolean).map(Number) : [];
    if (scales.some((scale) => !Number.isFinite(scale))) {
      throw new Error(`guidance scales to compare: "${text}" is not a list of numbers such as 2, 5, 8`);
    }
    return [...new Set(scales)];
  }

  _addPresets() {
    const place = this.form.querySelector("#presets");
    for (const [name, values] of Object.entries(this.choices.presets)) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.title = `${values.num_inference_steps} steps, ${values.scheduler}`;
      button.addEventListener("click", () => this.set(values));
      button.dataset.preset = name;
      place.append(button);
    }
  }

  _keep() {
    const all = Object.fromEntries(this.names.map((name) => [name, this.field(name).value]));
    for (const button of this.form.querySelectorAll("[data-preset]")) {
      const values = Object.entries(this.choices.presets[button.dataset.preset]);
      button.setAttribute("aria-pressed", values.every(([name, value]) => all[name] === String(value)));
    }
    try {
      localStorage.setItem(KEY, JSON.stringify(all));
    } catch {
      // A browser that keeps nothing is no reason to stop.
    }
    this.changed();
  }
}

function remembered() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return found && typeof found === "object" ? found : {};
  } catch {
    return {};
  }
}

function labelOf(field) {
  return field.closest("label").firstChild.textContent.trim();
}
