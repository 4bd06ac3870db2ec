// The switch of models: what is offered and told follows the model that is chosen.

import { ask } from "./server.js";

/** Fill the list; `choices` are those of the first model and become those of the chosen one, then `apply` is called. */
export function listModels(field, choices, apply, fail) {
  const list = field.querySelector("select");
  list.replaceChildren(...choices.models.map((name) => new Option(name, name)));
  field.hidden = choices.models.length < 2;
  list.addEventListener("change", async () => {
    list.disabled = true;
    try {
      Object.assign(choices, await (await ask("/page/choices", { model: list.value })).json());
      choices.model = list.value;
      apply();
    } catch (error) {
      list.value = choices.model ?? choices.models[0];
      fail(error);
    } finally {
      list.disabled = false;
    }
  });
}

/** The path of an order, for the model that was chosen. */
export function pathFor(path, choices) {
  return choices.model ? `${path}?${new URLSearchParams({ model: choices.model })}` : path;
}
