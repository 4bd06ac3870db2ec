// The picture with the mask that is painted on it. The canvas has the size of the picture's copy, at most
// 1024 pixels; its alpha is the mask.

import { grown } from "./grow.js";

const COLOUR = [255, 127, 14];
const HALF = 128; // alpha from which a pixel is marked
const REMEMBERED = 60; // states to undo

export class MaskCanvas {
  /** `stage`: element with an image, a canvas, a frame and a cursor; `changed()` is called after changes. */
  constructor(stage, changed) {
    this.stage = stage;
    this.image = stage.querySelector("img");
    this.canvas = stage.querySelector("canvas");
    this.frame = stage.querySelector(".frame");
    this.cursor = stage.querySelector(".cursor");
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.changed = changed;
    this.brush = 40; // pixels on the screen
    this.erasing = false;
    this.size = null; // width and height of the picture itself
    this.exact = null; // the mask file that the canvas shows unchanged: { file, invert }
    this.past = [];
    this.future = [];
    this._listen();
  }

  /** Show a picture of `size` [width, height] by the address of its copy; the mask is empty. */
  async show(address, size) {
    this.image.src = address;
    await this.image.decode();
    this.canvas.width = this.image.naturalWidth;
    this.canvas.height = this.image.naturalHeight;
    this.stage.style.setProperty("--ratio", this.canvas.width / this.canvas.height);
    this.size = size;
    this.past = [];
    this.future = [];
    this.exact = null;
    this.stage.hidden = false;
    this.changed();
  }

  /** Show nothing. */
  hide() {
    this.size = null;
    this.exact = null;
    this.canvas.width = this.canvas.height = 1;
    this.stage.hidden = true;
    this.changed();
  }

  /** Show a mask file by the address of its copy, as if it were painted. */
  async showMask(address, file) {
    const image = new Image();
    image.src = address;
    await image.decode();
    this._remember();
    this.context.globalCompositeOperation = "copy";
    this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    const shown = this._pixels();
    this._put(Uint8Array.from({ length: shown.length / 4 }, (_, i) => (shown[4 * i] >= HALF ? 255 : 0)));
    this.exact = { file, invert: false };
    this.changed();
  }

  clear() {
    this._change(() => new Uint8Array(this.canvas.width * this.canvas.height));
  }

  /** Move the mask's edge outward by some pixels of the copy, or inward if they are negative. */
  grow(pixels) {
    const { width, height } = this.canvas;
    this._change((alpha) => {
      const outward = pixels > 0;
      const side = alpha.map((value) => (value >= HALF === outward ? 1 : 0));
      return grown(side, width, height, Math.abs(pixels)).map((value) => (value === Number(outward) ? 255 : 0));
    });
  }

  /** Mark what is not marked, and the reverse; a mask file stays exact. */
  invert() {
    const exact = this.exact && { ...this.exact, invert: !this.exact.invert };
    this._change((alpha) => alpha.map((value) => (value >= HALF ? 0 : 255)));
    this.exact = exact;
  }

  undo() {
    this._swap(this.past, this.future);
  }

  redo() {
    this._swap(this.future, this.past);
  }

  /** The smallest box around the mask in the picture's pixels, or null. */
  box() {
    if (!this.size) return null;
    const { width, height } = this.canvas;
    const alpha = this._alpha();
    let [x0, y0, x1, y1] = [width, height, -1, -1];
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (alpha[i] < HALF) continue;
        if (x < x0) x0 = x;
        if (x > x1) x1 = x;
        if (y < y0) y0 = y;
        y1 = y;
      }
    }
    if (x1 < 0) return null;
    const [across, down] = [this.size[0] / width, this.size[1] / height];
    return {
      x0: Math.floor(x0 * across),
      y0: Math.floor(y0 * down),
      x1: Math.ceil((x1 + 1) * across),
      y1: Math.ceil((y1 + 1) * down),
    };
  }

  /** The mask of the canvas as a PNG: white = repaint. */
  png() {
    const { width, height } = this.canvas;
    const paper = document.createElement("canvas");
    paper.width = width;
    paper.height = height;
    const content = new ImageData(width, height);
    this._alpha().forEach((value, i) => content.data.set(value >= HALF ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * i));
    paper.getContext("2d").putImageData(content, 0, 0);
    return new Promise((resolve) => paper.toBlob(resolve, "image/png"));
  }

  /** Draw the frame of the model's window [x0, y0, x1, y1], or none. */
  showWindow(window) {
    this.frame.hidden = !window || !this.size;
    if (this.frame.hidden) return;
    const [width, height] = this.size;
    const share = (value) => `${100 * value}%`;
    this.frame.style.left = share(window[0] / width);
    this.frame.style.top = share(window[1] / height);
    this.frame.style.width = share((window[2] - window[0]) / width);
    this.frame.style.height = share((window[3] - window[1]) / height);
  }

  _listen() {
    const { canvas } = this;
    let last = null;
    const draw = (event) => {
      const here = this._place(event);
      this._stroke(last || here, here);
      last = here;
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary) return;
      event.preventDefault();
      this.stage.focus({ preventScroll: true }); // keys are for the picture now, not for a setting
      canvas.setPointerCapture(event.pointerId);
      this._remember();
      draw(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      this._moveCursor(event);
      if (last) draw(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        if (!last) return;
        last = null;
        this.changed();
      });
    }
    canvas.addEventListener("pointerleave", () => (this.cursor.hidden = true));
  }

  _place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale, scale };
  }

  _stroke(from, to) {
    const { context } = this;
    const width = this.brush * to.scale;
    context.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = `rgb(${COLOUR})`;
    context.lineWidth = width;
    context.lineCap = "round";
    context.beginPath();
    context.arc(to.x, to.y, width / 2, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
  }

  _moveCursor(event) {
    const box = this.canvas.getBoundingClientRect();
    this.cursor.hidden = event.pointerType === "touch";
    this.cursor.style.width = this.cursor.style.height = `${this.brush}px`;
    this.cursor.style.left = `${event.clientX - box.left}px`;
    this.cursor.style.top = `${event.clientY - box.top}px`;
  }

  _pixels() {
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height).data;
  }

  _alpha() {
    const pixels = this._pixels();
    const alpha = new Uint8Array(pixels.length / 4);
    for (let i = 0; i < alpha.length; i++) alpha[i] = pixels[4 * i + 3];
    return alpha;
  }

  _put(alpha) {
    const content = new ImageData(this.canvas.width, this.canvas.height);
    for (let i = 0; i < alpha.length; i++) {
      content.data[4 * i] = COLOUR[0];
      content.data[4 * i + 1] = COLOUR[1];
      content.data[4 * i + 2] = COLOUR[2];
      content.data[4 * i + 3] = alpha[i];
    }
    this.context.putImageData(content, 0, 0);
  }

  _remember() {
    this.past.push({ alpha: this._alpha(), exact: this.exact });
    if (this.past.length > REMEMBERED) this.past.shift();
    this.future = [];
    this.exact = null;
  }

  _change(newAlpha) {
    if (!this.size) return;
    this._remember();
    this._put(newAlpha(this._alpha()));
    this.changed();
  }

  _swap(from, to) {
    if (!this.size || !from.length) return;
    to.push({ alpha: this._alpha(), exact: this.exact });
    const state = from.pop();
    this._put(state.alpha);
    this.exact = state.exact;
    this.changed();
  }
}
