// Cluster cards and animations along principal components.
"use strict";

const VIEWS = ["slice z", "slice y", "slice x", "projection z", "projection y", "projection x"];

// images: bytes of shape (volumes, views, side, side)
function drawView(canvas, images, volume, view) {
  const [, views, side] = images.shape;
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const context = canvas.getContext("2d"), picture = context.createImageData(side, side);
  const start = (volume * views + view) * side * side;
  for (let row = 0; row < side; row++)
    for (let column = 0; column < side; column++) {
      const grey = images[start + (side - 1 - row) * side + column], at = 4 * (row * side + column);
      picture.data[at] = picture.data[at + 1] = picture.data[at + 2] = grey;
      picture.data[at + 3] = 255;
    }
  context.putImageData(picture, 0, 0);
}

// A picture of a volume with a scale bar
function scaled(canvas, side, apix) {
  const picture = element("div", { class: "picture" }, canvas);
  if (apix) {
    const bar = scaleLength(side * apix);
    picture.append(element("div", { class: "scale", style: `width:${(100 * bar) / (side * apix)}%` }, element("span", {}, `${bar} Å`)));
  }
  return picture;
}

// Largest round length up to a third of a width, both in Å
function scaleLength(width) {
  const power = 10 ** Math.floor(Math.log10(width / 3));
  return [5, 2, 1].map((digit) => digit * power).find((length) => length <= width / 3);
}

function viewRow(images, volume, views, apix) {
  const row = element("div", { class: "views" });
  for (const view of views) {
    const canvas = element("canvas", { role: "img", "aria-label": VIEWS[view], title: VIEWS[view] });
    drawView(canvas, images, volume, view);
    row.append(element("div", {}, scaled(canvas, images.shape[2], apix), element("small", {}, VIEWS[view].split(" ")[1])));
  }
  return element("div", {}, element("div", { class: "row-label" }, views[0] < 3 ? "central slices perpendicular to" : "projections along"), row);
}

const CONTROL = "#7a8591", CONFIRMED = "#1c2530";

function fscChart(curve, colour, width, nyquist) {
  const last = curve.frequency[curve.frequency.length - 1];
  const lines = [{ x: curve.frequency, y: curve.own, colour, name: "half maps of this cluster" }];
  if (curve.control) lines.unshift({ x: curve.frequency, y: curve.control, colour: CONTROL, dash: "5 4", name: "half maps of equally many particles of all" });
  if (curve.map) lines.push({ x: curve.frequency, y: curve.map, colour: CONFIRMED, dash: "2 2", name: "decoded map and back-projection" });
  const ticks = [0.25, 0.5, 0.75, 1].map((part) => [part * last, (1 / (part * last)).toFixed(1) + (part === 1 ? " Å" : "")]);
  const verticals = nyquist ? [[Math.min(1 / nyquist, last), `Nyquist ${short(+nyquist.toPrecision(3))} Å`]] : [];
  const chart = lineChart(lines, { width, height: 140, xRange: [0, last], yRange: [-0.1, 1.25], xTicks: ticks, xLabel: "", marks: [0.143], verticals, plain: true });
  const key = element("div", { class: "fsc-key" });
  for (const { colour: stroke, dash, name } of lines) {
    const sample = svgElement("svg", { viewBox: "0 0 24 8" });
    sample.append(svgElement("line", { x1: 0, x2: 24, y1: 4, y2: 4, stroke, "stroke-width": dash ? 1.4 : 2, ...(dash ? { "stroke-dasharray": dash } : {}) }));
    key.append(element("span", {}, sample, name));
  }
  return element("div", {}, chart, key);
}

function showClusters(report, host, showOnly) {
  const cards = element("div", { class: report.clusters.length > 3 ? "cards" : "cards few" });
  for (const cluster of report.clusters) {
    const head = element("header", {},
      element("span", { class: "badge", style: `background:${cluster.colour};color:${inkOn(cluster.colour)}` }, String(cluster.number)),
      element("b", {}, whole(cluster.count)), element("span", {}, `particles, ${percent(cluster.share)}`),
      element("button", { onclick: () => showOnly(cluster.number), title: "Show only this cluster in the latent space" }, "show"));
    const card = element("article", { class: "card", "data-cluster": cluster.number }, head);
    if (report.volumes) card.append(viewRow(report.volumes, cluster.number, [0, 1, 2], report.pictures.clusters), viewRow(report.volumes, cluster.number, [3, 4, 5], report.pictures.clusters));
    const table = element("table");
    for (const [name, value] of cluster.evidence) table.append(element("tr", {}, element("td", {}, name), element("td", {}, value)));
    if (cluster.curve) card.append(fscChart(cluster.curve, cluster.colour, report.clusters.length > 3 ? 276 : 390, report.nyquist));
    if (cluster.evidence.length) card.append(table);
    cards.append(card);
  }
  host.append(cards);
}

class Movie {
  constructor(movie) {
    this.images = movie.frames;
    this.count = movie.frames.shape[0];
    this.frame = 0;
    this.step = 1;
    this.canvases = [0, 1, 2].map(() => element("canvas", { role: "img" }));
    this.views = [3, 4, 5];
    this.slider = element("input", { type: "range", min: 0, max: this.count - 1, value: 0, "aria-label": `position along PC${movie.number}`,
      oninput: () => { this.pause(); this.show(+this.slider.value); } });
    this.button = element("button", { onclick: () => (this.playing ? this.pause() : this.play()) }, "pause");
    this.position = element("span", { class: "hint", style: "margin:0;min-width:86px;text-align:right" });
    const kind = element("select", { "aria-label": "projections or slices", onchange: () => { this.views = kind.value === "sums" ? [3, 4, 5] : [0, 1, 2]; this.show(this.frame); } },
      element("option", { value: "sums" }, "projections"), element("option", { value: "slices" }, "slices"));
    this.labels = this.canvases.map(() => element("small"));
    this.scores = movie.scores;
    this.card = element("article", { class: "card", "data-movie": movie.number },
      element("header", {}, element("b", {}, `PC${movie.number}`), element("span", {}, movie.about)),
      element("div", { class: "views" }, ...this.canvases.map((canvas, k) => element("div", {}, scaled(canvas, movie.frames.shape[2], movie.apix), this.labels[k]))),
      element("div", { class: "bar" }, this.button, this.slider, this.position, kind));
    this.show(0);
    // pause the animation while it is not visible
    new IntersectionObserver(([entry]) => { this.visible = entry.isIntersecting; }).observe(this.card);
    this.play();
  }

  show(frame) {
    this.frame = frame;
    this.canvases.forEach((canvas, k) => drawView(canvas, this.images, frame, this.views[k]));
    this.labels.forEach((label, k) => { label.textContent = VIEWS[this.views[k]]; });
    this.slider.value = frame;
    this.position.textContent = `score ${short(this.scores[frame])}`;
  }

  play() {
    this.playing = true;
    this.button.textContent = "pause";
    this.timer = setInterval(() => {
      if (this.visible === false || document.hidden || this.count < 2) return;
      if (this.frame + this.step < 0 || this.frame + this.step >= this.count) this.step = -this.step;
      this.show(this.frame + this.step);
    }, 170);
  }

  pause() {
    this.playing = false;
    this.button.textContent = "play";
    clearInterval(this.timer);
  }
}

function showMovies(report, host) {
  const grid = element("div", { class: report.movies.length > 2 ? "movies" : "movies few" });
  const movies = report.movies.map((movie) => new Movie(movie));
  grid.append(...movies.map((movie) => movie.card));
  host.append(grid);
  return movies;
}
