// The second tab: an edit that starts from the picture. Methods, couplings, and what the picture shows.

/** Fields of the tab, and the order that they make. */
export class Inversion {
  /** `form`: the page's form; `settings`: its fields. */
  constructor(form, settings) {
    this.form = form;
    this.settings = settings;
    this.joined = form.querySelector("[name='invert.coupling']");
    this.place = form.querySelector("#couplings");
    for (const tab of form.querySelectorAll("#ways [role=tab]")) {
      tab.addEventListener("click", () => this.show(tab.dataset.tab));
    }
    form.querySelector("#reset").addEventListener("click", () => this._check());
    this.show("edit");
  }

  /** Offer the couplings of the chosen model; null for one that cannot start from the picture. */
  lay(offered) {
    this.form.querySelector("#ways").hidden = !offered;
    if (!offered) return this.show("edit");
    for (const box of this._boxes()) box.closest("label").remove();
    for (const name of offered.couplings) {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", value: name });
      box.addEventListener("change", () => {
        const chosen = this._boxes().filter((one) => one.checked).map((one) => one.value);
        this.settings.set({ "invert.coupling": chosen.join(",") });
      });
      const label = document.createElement("label");
      label.append(box, ` ${name}`);
      this.place.append(label);
    }
    this._check();
  }

  _boxes() {
    return [...this.place.querySelectorAll("input[type=checkbox]")];
  }

  /** Show the couplings that the hidden field has. */
  _check() {
    for (const box of this._boxes()) box.checked = this.joined.value.split(",").includes(box.value);
  }

  /** Whether this tab is chosen. */
  get chosen() {
    return this.form.dataset.chosen === "invert";
  }

  show(way) {
    this.form.dataset.chosen = way;
    for (const tab of this.form.querySelectorAll("#ways [role=tab]")) {
      tab.setAttribute("aria-selected", tab.dataset.tab === way);
    }
    for (const part of this.form.querySelectorAll("[data-way]")) {
      part.classList.toggle("away", part.dataset.way !== way);
    }
  }

  /** The order's settings and texts; the couplings in the order of the list. */
  values() {
    const shared = ["seed", "fit", "context", "blend", "match_colour", "exemplar_background"];
    const all = this.settings.values();
    const found = Object.fromEntries(shared.filter((name) => name in all).map((name) => [name, all[name]]));
    Object.assign(found, this.settings.values("invert."));
    for (const name of ["coupling", "source", "words"]) if (!found[name]) delete found[name];
    if (found.words) found.words = pairs(found.words);
    return found;
  }

  /** What an answer's figures say, for its caption. */
  caption(content, answer) {
    const numbers = [`reconstruction error ${answer.latent_error?.toPrecision(2) ?? "infinite"}`];
    if (answer.background_psnr !== null) numbers.push(`background ${answer.background_psnr.toFixed(1)} dB`);
    return [content.method, content.coupling, ...numbers].filter(Boolean).join(", ");
  }
}

function pairs(text) {
  const found = {};
  for (const pair of text.split(",")) {
    const [before, after, more] = pair.split("=").map((word) => word.trim());
    if (!before || !after || more !== undefined) {
      throw new Error(`words: "${pair.trim()}" is not a pair such as cat=dog`);
    }
    found[before] = after;
  }
  return found;
}
