// Scatter plot for large numbers of points, drawn directly into pixels, with hover, click, lasso, pan and zoom.
"use strict";

const MARGIN = { left: 52, right: 12, top: 12, bottom: 36 };
const FAINT = packedColor("#dde2e8");

// range of the values of the members, with a margin
function range(values, members) {
  const [low, high] = libraries.extent(members, (i) => values[i]);
  if (low === undefined) return [-1, 1];
  const room = (high - low) * 0.03 || 1;
  return [low - room, high + room];
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
    Object.assign(this, { host, callbacks, tool: "lasso", path: null, hovered: -1, marked: -1, labels: [], placed: [], transform: libraries.zoomIdentity });
    this.base = element("canvas");
    this.axes = element("div", { class: "frame" });
    this.over = element("div", { class: "over", tabindex: "-1" });
    host.append(this.base, this.axes, this.over);
    this.x = this.y = this.members = this.order = new Int32Array(0);
    this.drawSoon = whenVisible(host, () => this.draw());
    this.listen();
    new ResizeObserver(() => this.resize()).observe(host);
    this.resize();
  }

  // displayed data

  // scale: pixels per unit on both axes; by default the data fill the plot
  setPoints(x, y, members, { equal = true, names = ["", ""], scale = 0 } = {}) {
    Object.assign(this, { x, y, members, equal, names, scale, tree: null });
    this.box = [range(x, members), range(y, members)];
    // fixed random order, so that no color covers the others
    this.order = libraries.shuffler(libraries.randomLcg(0.5))(Int32Array.from(members));
    this.resetView();
  }

  setLook(colors, shown, selected) {
    // color per point, visibility 0/1 per point, selection 0/1 per point or null
    Object.assign(this, { colors, shown, selected, tree: null });
    this.drawSoon();
  }

  setLabels(labels) {
    this.labels = labels;
    this.drawSoon();
  }

  resetView() {
    libraries.select(this.over).call(this.zoom.transform, libraries.zoomIdentity);
  }

  // coordinates

  resize() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!width || !height) return;
    Object.assign(this, { width, height, tree: null, ratio: Math.min(window.devicePixelRatio || 1, 2) });
    Object.assign(this.base, { width: Math.round(width * this.ratio), height: Math.round(height * this.ratio) });
    this.drawSoon();
  }

  scales({ k, x, y } = this.transform) {
    const wide = this.width - MARGIN.left - MARGIN.right, tall = this.height - MARGIN.top - MARGIN.bottom;
    const [[x0, x1], [y0, y1]] = this.box;
    let sx = wide / (x1 - x0), sy = tall / (y1 - y0);
    if (this.scale) sx = sy = this.scale;
    else if (this.equal) sx = sy = Math.min(sx, sy);
    return {
      sx: sx * k, sy: -sy * k,
      ox: x + k * (MARGIN.left + wide / 2 - ((x0 + x1) / 2) * sx),
      oy: y + k * (MARGIN.top + tall / 2 + ((y0 + y1) / 2) * sy),
    };
  }

  pixelOf(i) {
    const { sx, sy, ox, oy } = this.scales();
    return [ox + this.x[i] * sx, oy + this.y[i] * sy];
  }

  radius() {
    const size = Math.max(1.25, 7.2 - 1.25 * Math.log10(Math.max(10, this.members.length)));
    return Math.min(7, size * Math.pow(this.transform.k, 0.35));
  }

  pointAt(px, py) {
    // index of the nearest visible point within 9 pixels, or -1
    if (!this.box || !this.members.length) return -1;
    if (!this.tree) {
      const { sx, sy, ox, oy } = this.scales(libraries.zoomIdentity);
      this.tree = libraries.quadtree(this.members.filter((i) => !this.shown || this.shown[i]), (i) => ox + this.x[i] * sx, (i) => oy + this.y[i] * sy);
    }
    const found = this.tree.find(...this.transform.invert([px, py]), 9 / this.transform.k);
    return found === undefined ? -1 : found;
  }

  pointsInside(path) {
    // visible points inside a polygon of pixels
    const { sx, sy, ox, oy } = this.scales(), xs = path.map((p) => p[0]), ys = path.map((p) => p[1]);
    const left = Math.min(...xs), right = Math.max(...xs), top = Math.min(...ys), bottom = Math.max(...ys);
    return Array.from(this.members.filter((i) => {
      if (this.shown && !this.shown[i]) return false;
      const px = ox + this.x[i] * sx, py = oy + this.y[i] * sy;
      return px >= left && px <= right && py >= top && py <= bottom && libraries.polygonContains(path, [px, py]);
    }));
  }

  // drawing

  draw() {
    if (!this.colors || !this.width || !this.box) return;
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
        if (px < MARGIN.left * ratio || py < -20 || px > wide + 20 || py > tall - MARGIN.bottom * ratio) continue;
        const color = tint === null ? this.colors[i] : tint;
        const red = color & 255, green = (color >> 8) & 255, blue = (color >> 16) & 255;
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
    this.drawAxes();
    // labels near their points, moved apart until they do not overlap
    this.placed = this.labels.map(({ x, y, text, color }) => ({ text, color, x: ox + x * sx, y: oy + y * sy, from: [ox + x * sx, oy + y * sy] }));
    libraries.forceSimulation(this.placed).stop()
      .force("apart", libraries.forceCollide(13)).force("x", libraries.forceX(({ from }) => from[0])).force("y", libraries.forceY(({ from }) => from[1])).tick(80);
    this.drawOver();
  }

  drawOver() {
    if (!this.box || !this.width) return;
    const { width, height, placed } = this, ink = "#1c2530", at = { x: "x", y: "y" };
    const rings = [[this.marked, 3.5], [this.hovered, 2]].filter(([i]) => i >= 0 && this.members.includes(i)).map(([i, strokeWidth]) => dotMark([this.pixelOf(i)], { x: "0", y: "1", r: this.radius() + 3.5, stroke: ink, strokeWidth }));
    this.over.replaceChildren(drawPlot({
      width, height, margin: 0, x: { axis: null, domain: [0, width] }, y: { axis: null, domain: [height, 0] },
      marks: [
        linkMark(placed.filter(({ x, y, from }) => Math.hypot(x - from[0], y - from[1]) > 9), { x1: ({ from }) => from[0], y1: ({ from }) => from[1], x2: "x", y2: "y", stroke: "#5a6675" }),
        dotMark(placed, { ...at, r: 11, fill: "#fff", fillOpacity: 0.92, stroke: "color", strokeWidth: 2 }),
        textMark(placed, { ...at, text: "text", fill: ink, fontSize: 13, fontWeight: 600 }), ...rings,
        this.path && lineMark(this.path, { x: "0", y: "1", curve: "linear-closed", fill: "#0b4f8a", fillOpacity: 0.1, stroke: "#0b4f8a" }),
      ],
    }));
  }

  // frame and ticks, between the points and what is drawn over them
  drawAxes() {
    const { left, right, top, bottom } = MARGIN, { width, height } = this, { sx, sy, ox, oy } = this.scales();
    const x = { domain: [(left - ox) / sx, (width - right - ox) / sx] }, y = { domain: [(height - bottom - oy) / sy, (top - oy) / sy] };
    const common = { tickSize: 0, tickFormat: short, labelArrow: "none", color: "#5a6675", fontSize: 11 };
    this.axes.replaceChildren(drawPlot({
      width, height, marginLeft: left, marginRight: right, marginTop: top, marginBottom: bottom, x, y,
      marks: [
        axisX({ ...common, ticks: width / 90, label: this.names[0], labelAnchor: "right", labelOffset: 30 }),
        axisY({ ...common, ticks: height / 60, label: this.names[1], labelAnchor: "center" }),
        ruleX([x.domain[0]], { stroke: "#c5ccd5" }), ruleY([y.domain[0]], { stroke: "#c5ccd5" }),
      ],
    }));
  }

  // pointer events

  listen() {
    const place = (event) => {
      const box = this.over.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const pans = (event) => this.tool === "pan" || event.button !== 0;
    this.zoom = libraries.zoom().scaleExtent([0.5, 200]).filter((event) => event.type === "wheel" || pans(event))
      .wheelDelta((event) => -event.deltaY * 0.0023)
      .on("zoom", ({ transform }) => { this.transform = transform; this.drawSoon(); });
    libraries.select(this.over).call(this.zoom).on("dblclick.zoom", () => this.resetView());
    this.over.addEventListener("pointerdown", (event) => {
      this.over.setPointerCapture(event.pointerId);
      if (!pans(event)) this.path = [place(event)];
      this.hover(-1, event);
    });
    this.over.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (this.path) {
        const last = this.path[this.path.length - 1];
        if (Math.hypot(at[0] - last[0], at[1] - last[1]) > 3) this.path.push(at);
        this.drawOver();
      } else if (!event.buttons) this.hover(this.pointAt(at[0], at[1]), event);
    });
    const finish = (event) => {
      const path = this.path, mode = event.shiftKey ? "add" : event.altKey ? "remove" : "replace";
      this.path = null;
      if (!path) return;
      const clicked = path.length > 2 ? -1 : this.pointAt(...path[0]);
      if (clicked >= 0 && this.callbacks.click) this.callbacks.click(clicked);
      else if (this.callbacks.select && (path.length > 2 || mode === "replace")) this.callbacks.select(path.length > 2 ? this.pointsInside(path) : [], mode);
      this.drawOver();
    };
    this.over.addEventListener("pointerup", finish);
    this.over.addEventListener("pointercancel", finish);
    this.over.addEventListener("pointerleave", (event) => this.hover(-1, event));
    this.over.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  hover(i, event) {
    if (i !== this.hovered) {
      this.hovered = i;
      this.drawOver();
    }
    if (this.callbacks.hover) this.callbacks.hover(i, event);
  }
}
