// Pictures to choose from: those of the server's folder, and the bundled examples.

import { ask } from "./server.js";
import { thumb } from "./results.js";

/** Fill the list of the folder's pictures; `take`: functions of a file by kind: picture, mask, exemplar. */
export function listOffered(section, choices, take, fail) {
  section.hidden = !choices.offered.length;
  if (section.hidden) return;
  let chosen = null;
  section.querySelector("#offered-title").textContent = `Pictures in ${choices.folder} (${choices.offered.length})`;
  const buttons = choices.offered.map((name) =>
    thumb(`/page/offered?${new URLSearchParams({ name, small: 1 })}`, name, (button) => {
      chosen = name;
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
      section.querySelector("#chosen").textContent = name;
      for (const kind of Object.keys(take)) section.querySelector(`#take-${kind}`).disabled = false;
    }),
  );
  section.querySelector("#offered-list").replaceChildren(...buttons);
  section.querySelector("#filter").addEventListener("input", (event) => {
    const part = event.target.value.toLowerCase();
    buttons.forEach((button, i) => (button.hidden = !choices.offered[i].toLowerCase().includes(part)));
  });
  for (const [kind, use] of Object.entries(take)) {
    section.querySelector(`#take-${kind}`).addEventListener("click", async () => {
      try {
        await use(await fetched("/page/offered", { name: chosen }, chosen));
      } catch (error) {
        fail(error);
      }
    });
  }
}

/** Fill the list of the bundled examples. */
export function listExamples(section, choices, take, fail) {
  const buttons = choices.examples.map((name) =>
    thumb(`/page/example?${new URLSearchParams({ name, file: "image", small: 1 })}`, name, async () => {
      try {
        const files = await Promise.all(
          ["image", "mask", "exemplar"].map((file) => fetched("/page/example", { name, file }, file)),
        );
        await take.picture(files[0]);
        await Promise.all([take.mask(files[1]), take.exemplar(files[2])]);
      } catch (error) {
        fail(error);
      }
    }),
  );
  section.querySelector("#examples-list").replaceChildren(...buttons);
}

async function fetched(path, query, name) {
  const blob = await (await ask(path, query)).blob();
  return new File([blob], name.split("/").pop(), { type: blob.type });
}
