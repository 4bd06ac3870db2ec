// Growing a mask by a round brush, exactly.

/** The pixels within `radius` of a marked one (by the distance of centres), 0 or 1 each, row by row. */
export function grown(marked, width, height, radius) {
  const far = radius + 1;
  const up = new Uint16Array(marked.length).fill(far); // distance to the nearest marked pixel of the column
  for (let x = 0; x < width; x++) {
    for (let y = 0, gap = far; y < height; y++) {
      const i = y * width + x;
      gap = marked[i] ? 0 : Math.min(gap + 1, far);
      up[i] = gap;
    }
    for (let y = height - 1, gap = far; y >= 0; y--) {
      const i = y * width + x;
      gap = marked[i] ? 0 : Math.min(gap + 1, far);
      if (gap < up[i]) up[i] = gap;
    }
  }
  const near = new Uint8Array(marked.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const first = Math.max(0, x - radius);
      const last = Math.min(width - 1, x + radius);
      for (let other = first; other <= last; other++) {
        if ((x - other) ** 2 + up[y * width + other] ** 2 <= radius ** 2) {
          near[y * width + x] = 1;
          break;
        }
      }
    }
  }
  return near;
}
