// Scatter plot for large numbers of points, drawn directly into pixels, with hover, lasso, pan and zoom.
"use strict";

const MARGIN = { left: 46, right: 12, top: 12, bottom: 32 };
const FAINT = packedColour("#dde2e8");

function range(values, members) {
  // range of the values of the members, with a margin
  let low = Infinity, high = -Infinity;
  for (const i of members) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  if (!(high >= low)) return [-1, 1];
  const room = (high - low) * 0.03 || 1;
  return [low - room, high + room];
}

class PointGrid {
  // Points are sorted into cells so that those near the pointer are found without testing all points.
  constructor(x, y, members, box) {
    this.side = Math.max(8, Math.min(256, Math.round(Math.sqrt(members.length / 4))));
    this.box = box;
    this.start = new Int32Array(this.side * this.side + 1);
    const cells = new Int32Array(members.length);
    for (let k = 0; k < members.length; k++) {
      cells[k] = this.cell(x[members[k]], 0) + this.side * this.cell(y[members[k]], 1);
      this.start[cells[k] + 1]++;
    }
    for (let c = 0; c < this.side * this.side; c++) this.start[c + 1] += this.start[c];
    const next = this.start.slice(0, -1);
    this.points = new Int32Array(members.length);
    for (let k = 0; k < members.length; k++) this.points[next[cells[k]]++] = members[k];
  }

  cell(value, axis) {
    const [low, high] = this.box[axis];
    const at = Math.floor(((value - low) / (high - low)) * this.side);
    return Math.min(Math.max(at, 0), this.side - 1);
  }

  *within(x0, x1, y0, y1) {
    const right = this.cell(x1, 0), bottom = this.cell(y1, 1);
    for (let row = this.cell(y0, 1); row <= bottom; row++)
      for (let column = this.cell(x0, 0); column <= right; column++) {
        const c = row * this.side + column;
        for (let k = this.start[c]; k < this.start[c + 1]; k++) yield this.points[k];
      }
  }
}

function discOffsets(radius) {
  // Pixels covered by a point and their coverage, with antialiased edges.
  const reach = Math.ceil(radius + 0.5), cover = [];
  for (let dy = -reach; dy <= reach; dy++)
    for (let dx = -reach; dx <= reach; dx++) {
      const part = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy)));
      if (part > 0.02) cover.push([dx, dy, part]);
    }
  return cover;
}

class Scatter {
  constructor(host, callbacks = {}) {
    this.host = host;
    this.callbacks = callbacks;
    this.base = element("canvas");
    this.over = element("canvas", { tabindex: "-1" });
    host.append(this.base, this.over);
    this.tool = "lasso";
    this.path = null;
    this.hovered = -1;
    this.labels = [];
    this.view = { zoom: 1, x: 0, y: 0 };
    this.x = this.y = this.members = this.order = new Int32Array(0);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(host);
    this.resize();
  }

  // displayed data

  // scale: pixels per unit on both axes; by default the data fill the plot
  setPoints(x, y, members, { equal = true, names = ["", ""], ticks = false, scale = 0 } = {}) {
    Object.assign(this, { x, y, members, equal, names, ticks, scale });
    this.box = [range(x, members), range(y, members)];
    this.grid = new PointGrid(x, y, members, this.box);
    // fixed random order, so that no color covers the others
    this.order = Int32Array.from(members);
    let state = 12345;
    for (let k = this.order.length - 1; k > 0; k--) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      const other = (state >>> 1) % (k + 1);
      [this.order[k], this.order[other]] = [this.order[other], this.order[k]];
    }
    this.resetView();
  }

  setLook(colours, shown, selected) {
    // color per point, visibility 0/1 per point, selection 0/1 per point or null
    Object.assign(this, { colours, shown, selected });
    this.draw();
  }

  setLabels(labels) {
    this.labels = labels;
    this.drawOver();
  }

  resetView() {
    this.view = { zoom: 1, x: 0, y: 0 };
    this.draw();
  }

  // coordinates

  resize() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!width || !height) return;
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.width = width;
    this.height = height;
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.draw();
  }

  scales() {
    const wide = this.width - MARGIN.left - MARGIN.right, tall = this.height - MARGIN.top - MARGIN.bottom;
    const [[x0, x1], [y0, y1]] = this.box;
    let sx = wide / (x1 - x0), sy = tall / (y1 - y0);
    if (this.scale) sx = sy = this.scale;
    else if (this.equal) sx = sy = Math.min(sx, sy);
    const zoom = this.view.zoom;
    return {
      sx: sx * zoom, sy: -sy * zoom,
      ox: MARGIN.left + wide / 2 + this.view.x - ((x0 + x1) / 2) * sx * zoom,
      oy: MARGIN.top + tall / 2 + this.view.y + ((y0 + y1) / 2) * sy * zoom,
    };
  }

  pixelOf(i) {
    const { sx, sy, ox, oy } = this.scales();
    return [ox + this.x[i] * sx, oy + this.y[i] * sy];
  }

  radius() {
    const size = Math.max(1.25, 7.2 - 1.25 * Math.log10(Math.max(10, this.members.length)));
    return Math.min(7, size * Math.pow(this.view.zoom, 0.35));
  }

  pointAt(px, py) {
    // index of the nearest visible point within 9 pixels, or -1
    if (!this.grid || !this.members.length) return -1;
    const { sx, sy, ox, oy } = this.scales(), reach = 9;
    const ys = [(py - oy - reach) / sy, (py - oy + reach) / sy].sort((a, b) => a - b);
    let best = -1, nearest = reach * reach;
    for (const i of this.grid.within((px - ox - reach) / sx, (px - ox + reach) / sx, ys[0], ys[1])) {
      if (this.shown && !this.shown[i]) continue;
      const dx = ox + this.x[i] * sx - px, dy = oy + this.y[i] * sy - py, distance = dx * dx + dy * dy;
      if (distance < nearest) [best, nearest] = [i, distance];
    }
    return best;
  }

  pointsInside(path) {
    // visible points inside a polygon of pixels (even-odd rule)
    const { sx, sy, ox, oy } = this.scales(), found = [];
    const xs = path.map((p) => p[0]), ys = path.map((p) => p[1]);
    const left = Math.min(...xs), right = Math.max(...xs), top = Math.min(...ys), bottom = Math.max(...ys);
    for (const i of this.members) {
      if (this.shown && !this.shown[i]) continue;
      const px = ox + this.x[i] * sx, py = oy + this.y[i] * sy;
      if (px < left || px > right || py < top || py > bottom) continue;
      let inside = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++)
        if (ys[a] > py !== ys[b] > py && px < ((xs[b] - xs[a]) * (py - ys[a])) / (ys[b] - ys[a]) + xs[a])
          inside = !inside;
      if (inside) found.push(i);
    }
    return found;
  }

  // drawing

  draw() {
    if (!this.colours || !this.width || !this.box) return;
    const context = this.base.getContext("2d"), ratio = this.ratio;
    const wide = this.base.width, tall = this.base.height;
    const image = context.createImageData(wide, tall);
    const bytes = image.data;
    new Uint32Array(bytes.buffer).fill(0xffffffff);
    const { sx, sy, ox, oy } = this.scales(), cover = discOffsets(this.radius() * ratio);
    const solid = this.members.length > 20000 ? 0.75 : 0.88;
    const layer = (wanted, tint, alpha) => {
      for (const i of this.order) {
        if (!wanted(i)) continue;
        const px = Math.round((ox + this.x[i] * sx) * ratio), py = Math.round((oy + this.y[i] * sy) * ratio);
        if (px < -20 || py < -20 || px > wide + 20 || py > tall + 20) continue;
        const colour = tint === null ? this.colours[i] : tint;
        const red = colour & 255, green = (colour >> 8) & 255, blue = (colour >> 16) & 255;
        for (const [dx, dy, part] of cover) {
          const cx = px + dx, cy = py + dy;
          if (cx < 0 || cy < 0 || cx >= wide || cy >= tall) continue;
          const at = 4 * (cy * wide + cx), a = part * alpha;
          bytes[at] += (red - bytes[at]) * a;
          bytes[at + 1] += (green - bytes[at + 1]) * a;
          bytes[at + 2] += (blue - bytes[at + 2]) * a;
        }
      }
    };
    const { shown, selected } = this;
    layer((i) => !shown[i], FAINT, 0.8);
    if (selected) {
      layer((i) => shown[i] && !selected[i], null, 0.16);
      layer((i) => shown[i] && selected[i], null, 0.95);
    } else layer((i) => shown[i], null, solid);
    context.putImageData(image, 0, 0);
    this.drawOver();
  }

  drawOver() {
    const context = this.over.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    if (!this.box) return;
    this.drawAxes(context);
    const { sx, sy, ox, oy } = this.scales();
    context.font = "600 13px system-ui, 'Liberation Sans', sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    const placed = spreadLabels(this.labels.map(({ x, y, text }) => [ox + x * sx, oy + y * sy, Math.max(22, context.measureText(text).width + 12)]));
    context.lineWidth = 1;
    context.strokeStyle = "#5a6675";
    this.labels.forEach(({ x, y }, k) => {
      // line from a moved label to its point
      if (Math.hypot(placed[k][0] - ox - x * sx, placed[k][1] - oy - y * sy) < 9) return;
      context.beginPath();
      context.moveTo(ox + x * sx, oy + y * sy);
      context.lineTo(placed[k][0], placed[k][1]);
      context.stroke();
    });
    for (const [k, { text, colour }] of this.labels.entries()) {
      const [px, py, wide] = placed[k];
      context.beginPath();
      context.roundRect(px - wide / 2, py - 11, wide, 22, 11);
      context.fillStyle = "rgba(255,255,255,0.92)";
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = colour;
      context.stroke();
      context.fillStyle = "#1c2530";
      context.fillText(text, px, py + 0.5);
    }
    if (this.hovered >= 0) {
      const [px, py] = this.pixelOf(this.hovered);
      context.beginPath();
      context.arc(px, py, this.radius() + 3.5, 0, 2 * Math.PI);
      context.lineWidth = 2;
      context.strokeStyle = "#1c2530";
      context.stroke();
    }
    if (this.path) {
      context.beginPath();
      this.path.forEach(([px, py], k) => (k ? context.lineTo(px, py) : context.moveTo(px, py)));
      context.closePath();
      context.fillStyle = "rgba(11,79,138,0.10)";
      context.fill();
      context.lineWidth = 1.5;
      context.strokeStyle = "#0b4f8a";
      context.stroke();
    }
  }

  drawAxes(context) {
    const bottom = this.height - MARGIN.bottom, { sx, sy, ox, oy } = this.scales();
    context.fillStyle = "rgba(255,255,255,0.9)";
    context.fillRect(0, bottom, this.width, MARGIN.bottom);
    context.fillRect(0, 0, MARGIN.left, this.height);
    context.strokeStyle = "#c5ccd5";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(MARGIN.left - 0.5, MARGIN.top);
    context.lineTo(MARGIN.left - 0.5, bottom + 0.5);
    context.lineTo(this.width - MARGIN.right, bottom + 0.5);
    context.stroke();
    context.fillStyle = "#5a6675";
    context.font = "12px system-ui, 'Liberation Sans', sans-serif";
    context.textAlign = "right";
    context.textBaseline = "alphabetic";
    context.fillText(this.names[0], this.width - MARGIN.right, this.height - 5);
    context.save();
    context.translate(11, MARGIN.top);
    context.rotate(-Math.PI / 2);
    context.fillText(this.names[1], 0, 0);
    context.restore();
    if (!this.ticks) return;
    context.font = "10.5px system-ui, 'Liberation Sans', sans-serif";
    context.textAlign = "center";
    for (const value of niceTicks((MARGIN.left - ox) / sx, (this.width - MARGIN.right - ox) / sx, this.width / 90))
      context.fillText(short(value), ox + value * sx, bottom + 13);
    context.textAlign = "right";
    const ends = [(MARGIN.top - oy) / sy, (bottom - oy) / sy].sort((a, b) => a - b);
    for (const value of niceTicks(ends[0], ends[1], this.height / 60))
      context.fillText(short(value), MARGIN.left - 4, oy + value * sy + 4);
  }

  // pointer events

  listen() {
    const place = (event) => {
      const box = this.over.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let panning = null;
    this.over.addEventListener("pointerdown", (event) => {
      this.over.setPointerCapture(event.pointerId);
      const at = place(event);
      if (this.tool === "pan" || event.button !== 0) panning = at;
      else this.path = [at];
      this.hover(-1, event);
    });
    this.over.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (panning) {
        this.view.x += at[0] - panning[0];
        this.view.y += at[1] - panning[1];
        panning = at;
        this.drawSoon();
      } else if (this.path) {
        const last = this.path[this.path.length - 1];
        if (Math.hypot(at[0] - last[0], at[1] - last[1]) > 3) this.path.push(at);
        this.drawOver();
      } else this.hover(this.pointAt(at[0], at[1]), event);
    });
    const finish = (event) => {
      panning = null;
      const path = this.path;
      this.path = null;
      if (!path) return;
      const mode = event.shiftKey ? "add" : event.altKey ? "remove" : "replace";
      const found = path.length > 2 ? this.pointsInside(path) : [];
      if (this.callbacks.select && (path.length > 2 || mode === "replace")) this.callbacks.select(found, mode);
      this.drawOver();
    };
    this.over.addEventListener("pointerup", finish);
    this.over.addEventListener("pointercancel", finish);
    this.over.addEventListener("pointerleave", (event) => this.hover(-1, event));
    this.over.addEventListener("contextmenu", (event) => event.preventDefault());
    this.over.addEventListener("dblclick", () => this.resetView());
    this.over.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [px, py] = place(event), before = this.scales();
      const zoom = Math.min(200, Math.max(0.5, this.view.zoom * Math.exp(-event.deltaY * 0.0016)));
      const x = (px - before.ox) / before.sx, y = (py - before.oy) / before.sy;
      this.view.zoom = zoom;
      const after = this.scales();
      this.view.x += px - (after.ox + x * after.sx);
      this.view.y += py - (after.oy + y * after.sy);
      this.drawSoon();
    }, { passive: false });
  }

  hover(i, event) {
    if (i !== this.hovered) {
      this.hovered = i;
      this.drawOver();
    }
    if (this.callbacks.hover) this.callbacks.hover(i, event);
  }

  drawSoon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }
}

function spreadLabels(places) {
  // Move labels [x, y, width] of height 22 pixels apart until they do not overlap.
  const moved = places.map((place) => [...place]);
  for (let round = 0; round < 80; round++) {
    let touching = false;
    for (let a = 0; a < moved.length; a++)
      for (let b = 0; b < a; b++) {
        const dx = moved[a][0] - moved[b][0], dy = moved[a][1] - moved[b][1];
        const overX = (moved[a][2] + moved[b][2]) / 2 + 3 - Math.abs(dx), overY = 25 - Math.abs(dy);
        if (overX <= 0 || overY <= 0) continue;
        touching = true;
        const axis = overX < overY ? 0 : 1, by = (axis ? overY : overX) / 2 + 0.5;
        const sign = (axis ? dy : dx) < 0 ? -1 : 1;
        moved[a][axis] += sign * by;
        moved[b][axis] -= sign * by;
      }
    if (!touching) break;
  }
  return moved;
}

function niceTicks(low, high, count) {
  const raw = (high - low) / Math.max(1, count), power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const ticks = [];
  if (!(step > 0) || !Number.isFinite(step)) return ticks;
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step && ticks.length < 50; k++) ticks.push(k * step);
  return ticks;
}
