// Sentences of the server name options of the command line; on the page their fields have other names.

const FIELDS = {
  "--fit": "Fit:",
  "--seed": "seed",
  "--guidance-scale": "guidance scale",
  "--blend": "Fade-in",
  "--structure": "structure",
  "--exemplar": "an exemplar",
};

export function inWordsOfThePage(sentence) {
  return sentence
    .replace("to repaint black instead, give --invert-mask", "to repaint the rest instead, press Invert")
    .replace(/--[a-z][a-z-]*/g, (option) => FIELDS[option] || option);
}
