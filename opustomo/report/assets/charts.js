// Line charts as SVG.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svgElement(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// lines: [{x, y, colour, dash, name, label}]; options: width, height, title, xLabel, yRange, xTicks [[value, text]],
// marks: y of horizontal lines, verticals: [[x, text]], bars: draw lines as bars. A label stands at the end of its line.
function lineChart(lines, options = {}) {
  const { width = 300, height = 170, title = "", xLabel = "", xTicks = null, marks = [], verticals = [] } = options;
  const longest = Math.max(0, ...lines.map(({ label }) => (label || "").length));
  const left = 44, right = longest ? 12 + 5.7 * longest : 10, top = 8, bottom = xLabel ? 30 : 19;
  const pairs = lines.flatMap(({ x, y }) => Array.from(y, (value, k) => [x[k], value])).filter((p) => p.every(Number.isFinite));
  const figure = element("figure", { class: "chart" });
  if (title) figure.append(element("figcaption", {}, title));
  const svg = svgElement("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  figure.append(svg);
  if (!pairs.length) {
    svg.append(svgElement("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "no data"));
    return figure;
  }
  const xs = pairs.map((p) => p[0]), ys = pairs.map((p) => p[1]);
  let [x0, x1] = options.xRange || [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = options.yRange || [Math.min(...ys), Math.max(...ys)];
  if (x1 <= x0) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  if (y1 <= y0) [y0, y1] = [y0 - (Math.abs(y0) || 1) * 0.1, y1 + (Math.abs(y1) || 1) * 0.1];
  else if (!options.yRange) [y0, y1] = [y0 - (y1 - y0) * 0.05, y1 + (y1 - y0) * 0.05];
  const px = (x) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  const py = (y) => height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom);
  for (const value of niceTicks(y0, y1, 4)) {
    if (value < y0 || value > y1) continue;
    svg.append(svgElement("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), stroke: "#e8ecf0" }));
    svg.append(svgElement("text", { x: left - 5, y: py(value) + 4, "text-anchor": "end" }, short(+value.toFixed(10))));
  }
  const named = xTicks || niceTicks(x0, x1, 5).filter((value) => Number.isInteger(value)).map((value) => [value, String(value)]);
  for (const [value, text] of named)
    svg.append(svgElement("text", { x: Math.min(px(value), width - right), y: height - bottom + 14, "text-anchor": px(value) > width - right - 12 ? "end" : "middle" }, text));
  svg.append(svgElement("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: "#c5ccd5" }));
  for (const value of marks)
    svg.append(svgElement("line", { x1: left, x2: width - right, y1: py(value), y2: py(value), stroke: "#8a94a0", "stroke-dasharray": "2 3" }));
  for (const [value, text] of verticals) {
    if (value < x0 || value > x1) continue;
    svg.append(svgElement("line", { x1: px(value), x2: px(value), y1: top, y2: height - bottom, stroke: "#8a94a0", "stroke-dasharray": "1 3", class: "vertical" }));
    svg.append(svgElement("text", { x: px(value) - 3, y: top + 9, "text-anchor": "end" }, text));
  }
  svg.append(svgElement("text", { x: width - right, y: height - 3, "text-anchor": "end" }, xLabel));
  endLabels(lines, px, py, y0, y1).forEach(({ x, y, text, colour }) =>
    svg.append(svgElement("text", { x: x + 6, y: y + 4, style: `fill:${colour}`, class: "line-label" }, text)));
  for (const { x, y, colour, dash, name } of lines) {
    if (options.bars) {
      const half = Math.max(1, 0.4 * (px(x[1] ?? x[0] + 1) - px(x[0])));
      for (let k = 0; k < y.length; k++) {
        const bar = svgElement("rect", { x: px(x[k]) - half, width: 2 * half, y: py(y[k]), height: Math.max(0, py(Math.max(y0, 0)) - py(y[k])), fill: colour });
        bar.append(svgElement("title", {}, `${name || ""} ${short(x[k])}: ${short(y[k])}`));
        svg.append(bar);
      }
      continue;
    }
    let trail = "", open = false;
    for (let k = 0; k < y.length; k++) {
      if (!Number.isFinite(y[k])) { open = false; continue; }
      trail += `${open ? "L" : "M"}${px(x[k]).toFixed(1)} ${py(Math.min(Math.max(y[k], y0), y1)).toFixed(1)}`;
      open = true;
    }
    const line = svgElement("path", { d: trail, fill: "none", stroke: colour, "stroke-width": dash ? 1.4 : 2, "stroke-linejoin": "round" });
    if (dash) line.setAttribute("stroke-dasharray", dash);
    if (name) line.append(svgElement("title", {}, name));
    svg.append(line);
    if (y.length <= 40 && !dash && !options.plain)
      for (let k = 0; k < y.length; k++)
        if (Number.isFinite(y[k])) {
          const dot = svgElement("circle", { cx: px(x[k]), cy: py(y[k]), r: 2.6, fill: colour });
          dot.append(svgElement("title", {}, `${name || ""} ${x[k]}: ${short(y[k])}`));
          svg.append(dot);
        }
  }
  return figure;
}

// Positions of the labels at the ends of the lines, moved apart vertically
function endLabels(lines, px, py, y0, y1) {
  const labels = [];
  for (const { x, y, colour, label } of lines) {
    let k = y.length - 1;
    while (k >= 0 && !Number.isFinite(y[k])) k--;
    if (label && k >= 0) labels.push({ x: px(x[k]), y: py(Math.min(Math.max(y[k], y0), y1)), text: label, colour });
  }
  labels.sort((a, b) => a.y - b.y);
  for (let k = 1; k < labels.length; k++) labels[k].y = Math.max(labels[k].y, labels[k - 1].y + 12);
  const excess = labels.length ? Math.max(0, labels[labels.length - 1].y - py(y0)) : 0;
  for (const label of labels) label.y -= excess;
  return labels;
}

// Shades of slate, because hues denote clusters everywhere on the page
const TRAINING = "#2f3b49", HELD_OUT = "#8794a5";

function showTraining(report, host) {
  const { losses, convergence, kl } = report;
  const parts = [["training", TRAINING, "training"], ["validation", HELD_OUT, "held out"]];
  const charts = element("div", { class: "charts" });
  host.append(charts);
  const curves = (source, field) => parts.filter(([name]) => source && source[name])
    .map(([name, colour, label]) => ({ x: source[name].epochs, y: source[name][field], colour, name: label, label }));
  const options = { xLabel: "epoch (from 0)", width: 330 };
  if (losses && (losses.training || losses.validation))
    for (const [title, field] of [["generative loss", "gen_loss"], ["total loss", "total_loss"], ["SNR", "snr"]])
      charts.append(lineChart(curves(losses, field), { title, ...options }));
  else host.append(element("p", {}, "run.log records no completed epoch."));
  if (kl && (kl.training || kl.validation))
    charts.append(lineChart(curves(kl, "kl"), { title: "KL divergence of the latents", ...options }));
  if (convergence) {
    charts.append(lineChart(
      [{ x: convergence.epoch, y: convergence.ari_last, colour: HELD_OUT, name: "with the last epoch", label: "with last epoch" },
       { x: convergence.epoch, y: convergence.ari_previous, colour: TRAINING, name: "with the previous epoch", label: "with previous" }],
      { title: "convergence: adjusted Rand index of clusters", ...options, width: 380, yRange: [-0.05, 1.05] }));
    charts.append(lineChart(
      [{ x: convergence.epoch, y: convergence.displacement, colour: TRAINING, name: "displacement" }],
      { title: "convergence: displacement of latents / spread", ...options }));
  } else
    host.append(element("p", {}, "Convergence has not been measured. Run ", element("code", {}, report.commands.convergence), "."));
}

// Histograms of the corrections of the input poses
function showPoses(report, host) {
  const poses = report.poses;
  if (!poses) return;
  host.append(element("h3", {}, "Pose corrections"));
  if (!poses.estimated) {
    host.append(element("p", {}, "The poses are those of the input, because the run was trained without --estpose."));
    return;
  }
  const charts = element("div", { class: "charts" });
  for (const [field, title, unit] of [["angle", "rotation from the input pose", "°"], ["shift", "shift from the input pose", " Å"]]) {
    const { edges, counts, median, largest } = poses[field];
    const middles = counts.map((_, k) => (edges[k] + edges[k + 1]) / 2), top = edges[edges.length - 1];
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => [part * top, short(+(part * top).toPrecision(2)) + (part === 1 ? unit : "")]);
    charts.append(lineChart([{ x: middles, y: counts, colour: TRAINING, name: "particles" }], {
      title: `${title}: median ${short(+median.toPrecision(3))}${unit}, largest ${short(+largest.toPrecision(3))}${unit}`,
      width: 400, height: 150, xRange: [0, top], yRange: [0, 1.05 * Math.max(...counts, 1)], xTicks: ticks, bars: true }));
  }
  host.append(charts);
}

// Fraction of variance per principal component and its sum
function showScree(report, host) {
  const ratio = report.variance;
  if (!ratio.length) return;
  const x = ratio.map((_, k) => k + 1);
  let sum = 0;
  const total = ratio.map((part) => (sum += part));
  const chart = lineChart([{ x, y: ratio, colour: HELD_OUT, name: "component" }],
    { title: "variance of the composition per principal component (scree plot)", xLabel: "component", width: 420, height: 160,
      xRange: [0.4, ratio.length + 0.6], yRange: [0, 1.05 * Math.max(...ratio)], bars: true });
  const cumulative = lineChart([{ x, y: total, colour: TRAINING, name: "sum" }],
    { title: "fraction of variance of the first components", xLabel: "component", width: 420, height: 160, yRange: [0, 1.05] });
  host.append(element("div", { class: "charts" }, chart, cumulative));
}
