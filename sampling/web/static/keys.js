// The page's keys. In a field of text the keys stay the field's own, but for Ctrl+Enter and Ctrl+S.

/** `acts`: undo, redo, smaller, larger, eraser, edit, save. */
export function listenToKeys(acts) {
  document.addEventListener("keydown", (event) => {
    const act = acts[meaning(event)];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function meaning(event) {
  const control = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (event.altKey) return "";
  if (control && key === "s") return "save";
  if (control && key === "enter") return "edit";
  const field = event.target.closest("input, select, textarea, button, a, summary, label");
  const typing = field && field.matches("textarea, select, input:not([type=range], [type=file])");
  if (typing) return ""; // Enter in a field sends the form anyhow
  if (control && key === "z") return event.shiftKey ? "redo" : "undo";
  if (control && key === "y") return "redo";
  if (control) return "";
  if (key === "[") return "smaller";
  if (key === "]") return "larger";
  if (key === "x") return "eraser";
  if (key === "enter" && (!field || field.matches("input"))) return "edit";
  return "";
}
