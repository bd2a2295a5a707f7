// Charts, drawn by Observable Plot: training, resolution, distributions.
"use strict";

const { plot: drawPlot, line: lineMark, dot: dotMark, text: textMark, cell: cellMark, link: linkMark, binX, normalizeY, ruleX, ruleY, rectY, axisX, axisY, gridY } = libraries;

// Shades of slate, because hues denote clusters everywhere on the page
const TRAINING = "#2f3b49", HELD_OUT = "#8794a5";

function figure(title, drawing, ...more) {
  drawing.setAttribute("aria-label", title);
  return element("figure", { class: "chart" }, title ? element("figcaption", {}, title) : null, drawing, ...more);
}

// lines: [{x, y, color, dash, name, label}], of which labels stand at the ends of their lines.
// Options: width, height, title, xLabel, xRange, yRange, xTicks [[value, text]], marks (y of lines), verticals [[x, text]]
function lineChart(lines, options = {}) {
  const { width = 305, height = 180, title = "", xLabel = "", marks = [], verticals = [] } = options;
  const drawn = lines.map((line) => ({ ...line, points: Array.from(line.x, (x, k) => ({ x, y: line.y[k] })).filter(({ x }) => Number.isFinite(x)) }));
  const values = drawn.flatMap(({ points }) => points.map(({ y }) => y)).filter(Number.isFinite);
  if (!values.length) return figure(title, element("p", { class: "hint" }, "no data"));
  const room = 0.05 * (Math.max(...values) - Math.min(...values) || Math.abs(values[0]) || 1);
  const [low, high] = options.yRange || [Math.min(...values) - room, Math.max(...values) + room];
  const ticks = options.xTicks || libraries.scaleLinear(options.xRange || [drawn[0].points[0].x, drawn[0].points.at(-1).x], [0, 1]).ticks(5)
    .filter((value) => options.xRange || Number.isInteger(value)).map((value) => [value, short(value)]);
  const longest = Math.max(0, ...lines.map(({ label }) => (label || "").length));
  const margins = { marginLeft: 48, marginRight: longest ? 14 + 6.2 * longest : 14, marginTop: 10, marginBottom: xLabel ? 36 : 22 };
  // labels are moved apart until they are 13 pixels from each other
  const ends = drawn.filter(({ label }) => label).map(({ points, label, color }) => ({ label, color, ...points.findLast(({ y }) => Number.isFinite(y)) })).sort((a, b) => a.y - b.y);
  const apart = 13 * (high - low) / (height - margins.marginTop - margins.marginBottom);
  ends.forEach((end, k) => { if (k) end.y = Math.max(end.y, ends[k - 1].y + apart); });
  return figure(title, drawPlot({
    width, height, ...margins,
    x: { domain: options.xRange },
    y: { domain: [low, high], label: null, ticks: 4, tickFormat: short, tickSize: 0 },
    marks: [
      gridY({ ticks: 4, stroke: "#e3e8ed", strokeOpacity: 1 }),
      axisX(ticks.map(([value]) => value), { tickSize: 3, text: ticks.map(([, text]) => text), label: xLabel || null, labelArrow: "none", labelAnchor: "right" }),
      ruleY(marks, { stroke: "#8a94a0", strokeDasharray: "2 3" }),
      ruleX(verticals, { x: "0", stroke: "#8a94a0", strokeDasharray: "1 3" }),
      textMark(verticals, { x: "0", text: "1", frameAnchor: "top", textAnchor: "end", dx: -4, dy: 3, fill: "#5a6675" }),
      ...drawn.flatMap(({ points, color, dash, name }) => [
        lineMark(points, { x: "x", y: "y", stroke: color, strokeWidth: dash ? 1.4 : 2, strokeDasharray: dash, clip: true, title: () => name }),
        points.length <= 40 && !dash && !options.plain
          ? dotMark(points, { x: "x", y: "y", r: 2.6, fill: color, title: ({ x, y }) => `${name || ""} ${short(x)}: ${short(y)}` }) : null,
      ]),
      textMark(ends, { x: "x", y: "y", text: "label", fill: "color", textAnchor: "start", dx: 7, fontSize: 11, className: "line-label" }),
    ],
  }));
}

// Bars between edges
function barChart(edges, counts, { width = 400, height = 160, title, xLabel, color = TRAINING, yRange }) {
  const bars = Array.from(counts, (count, k) => ({ count, from: edges[k], to: edges[k + 1] }));
  return figure(title, drawPlot({
    width, height, marginLeft: 48, marginBottom: 36, marginTop: 10,
    x: { label: xLabel, labelArrow: "none", labelAnchor: "right", ticks: 6, tickFormat: short, tickSize: 3 },
    y: { domain: yRange, label: null, ticks: 4, tickFormat: short, tickSize: 0, grid: true },
    marks: [rectY(bars, { x1: "from", x2: "to", y: "count", fill: color, inset: 0.5, title: ({ from, to, count }) => `${short(from)} to ${short(to)}: ${short(count)}` }), ruleY([0])],
  }));
}

function showTraining(report, host) {
  const { losses, convergence, kl } = report;
  const parts = [["training", TRAINING, "training"], ["validation", HELD_OUT, "held out"]];
  const charts = element("div", { class: "charts" });
  host.append(charts);
  const curves = (source, field) => parts.filter(([name]) => source && source[name])
    .map(([name, color, label]) => ({ x: source[name].epochs, y: source[name][field], color, name: label, label }));
  const options = { xLabel: "epoch (from 0)" };
  if (losses && (losses.training || losses.validation))
    for (const [title, field] of [["Generative loss", "gen_loss"], ["Total loss", "total_loss"], ["SNR", "snr"]])
      charts.append(lineChart(curves(losses, field), { title, ...options }));
  else host.append(element("p", {}, "run.log records no completed epoch."));
  if (kl && (kl.training || kl.validation))
    charts.append(lineChart(curves(kl, "kl"), { title: "KL divergence of the latents", ...options }));
  if (convergence) {
    const { epoch, ari_last: last, ari_previous: previous, displacement } = convergence;
    charts.append(
      lineChart([{ x: epoch, y: last, color: HELD_OUT, name: "last epoch", label: "with last epoch" }, { x: epoch, y: previous, color: TRAINING, name: "previous epoch", label: "with previous" }],
        { title: "Convergence: adjusted Rand index of clusters", ...options, width: 400, yRange: [-0.05, 1.05] }),
      lineChart([{ x: epoch, y: displacement, color: TRAINING, name: "displacement" }], { title: "Convergence: displacement of latents / spread", ...options }));
  } else if (report.commands.convergence) {
    host.append(element("p", {}, "Convergence over epochs has not been measured. This command measures it:"), commandBlock(report.commands.convergence));
  } else {
    host.append(element("p", {}, "The clusters of different epochs cannot be compared, because the run has written the latents of one epoch only."));
  }
  if (report.state) host.append(element("p", {}, report.state));
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
  host.append(element("div", { class: "charts" }, ...[["angle", "Rotation from the input pose", "°"], ["shift", "Shift from the input pose", " Å"]].map(([field, name, unit]) => {
    const { edges, counts, median, largest } = poses[field];
    const title = `${name}: median ${short(+median.toPrecision(3))}${unit}, largest ${short(+largest.toPrecision(3))}${unit}`;
    return barChart(edges, counts, { title, xLabel: `in ${unit.trim()}` });
  })));
}

// Fraction of variance per principal component and its sum
function showScree(report, host) {
  const ratio = report.variance;
  if (!ratio.length) return;
  let sum = 0;
  const total = ratio.map((part) => (sum += part)), x = ratio.map((_, k) => k + 1);
  host.append(element("div", { class: "charts" },
    barChart([...x, ratio.length + 1].map((k) => k - 0.5), ratio, { title: "Variance of the composition per principal component", xLabel: "component", color: HELD_OUT }),
    lineChart([{ x, y: total, color: TRAINING, name: "sum" }], { title: "Fraction of variance of the first components", xLabel: "component", width: 400, height: 160, yRange: [0, 1.05] })));
}

const CONTROL = "#7a8591", CONFIRMED = "#1c2530";

function fscTicks(report, last) {
  const verticals = report.nyquist ? [[Math.min(1 / report.nyquist, last), `Nyquist ${short(+report.nyquist.toPrecision(3))} Å`]] : [];
  const xTicks = [0.25, 0.5, 0.75, 1].map((part) => [part * last, (1 / (part * last)).toFixed(1) + (part === 1 ? " Å" : "")]);
  return { xRange: [0, last], yRange: [-0.1, 1.25], xTicks, marks: [0.143], verticals, plain: true };
}

function fscChart(report, { curve, color }, width) {
  const lines = [{ x: curve.frequency, y: curve.own, color, name: "half maps of this cluster" }];
  if (curve.control) lines.unshift({ x: curve.frequency, y: curve.control, color: CONTROL, dash: "5 4", name: "half maps of equally many particles of all" });
  if (curve.map) lines.push({ x: curve.frequency, y: curve.map, color: CONFIRMED, dash: "2 2", name: "decoded map and back-projection" });
  const chart = lineChart(lines, { width, height: 150, ...fscTicks(report, curve.frequency.at(-1)) });
  const key = element("div", { class: "fsc-key" });
  for (const { color: stroke, dash, name } of lines)
    key.append(element("span", {}, element("i", { style: `border-top:2px ${dash ? "dashed" : "solid"} ${stroke}` }), name));
  return element("div", {}, chart, key);
}

// Half-map FSC of all clusters in one chart
function showResolution(report, host) {
  const measured = report.clusters.filter(({ curve }) => curve);
  if (!measured.length) {
    host.append(element("p", {}, "The resolution of the clusters has not been measured. This command measures it:"), commandBlock(report.commands.validate));
    return;
  }
  const lines = measured.map(({ number, color, curve }) => ({ x: curve.frequency, y: curve.own, color, name: `cluster ${number}` }));
  const key = element("div", { class: "key" }, ...measured.map(({ number, color }) => element("span", {}, badge(number, color))));
  host.append(lineChart(lines, { width: 720, height: 260, title: "Fourier shell correlation of the half maps of each cluster", ...fscTicks(report, lines[0].x.at(-1)) }), key);
}

// Histograms of what is known of the particles besides their latents, one line per cluster
class Distributions {
  constructor(report, explorer) {
    this.points = report.points;
    this.explorer = explorer;
    this.measures = this.points.measures.filter(({ kind }) => kind === "particle");
    this.host = byId("distribution-charts");
    this.bins = Math.round(Math.min(40, Math.max(10, 1.5 * Math.sqrt(this.points.count / report.clusters.length))));
    const redraw = whenVisible(this.host, () => this.draw());
    byId("scale").addEventListener("change", redraw);
    explorer.watchers.push(redraw);
    redraw();
  }

  draw() {
    const { categories, columns } = this.points, { codes, labels, colors } = categories[0], { every, shown, selected } = this.explorer;
    const fractions = byId("scale").value === "fractions", members = every.filter((i) => shown[i]);
    const series = labels.map((label, c) => [members.filter((i) => codes[i] === c), colors[c], label]).filter(([own]) => own.length);
    if (selected) series.push([members.filter((i) => selected[i]), "#1c2530", "selection"]);
    this.host.replaceChildren(...this.measures.map(({ name, column, unit }) => {
      const domain = percentiles(columns[column], 0.002, 0.998), values = columns[column], step = (domain[1] - domain[0]) / this.bins;
      const bins = { value: (i) => values[i], domain, thresholds: Array.from({ length: this.bins - 1 }, (_, k) => domain[0] + (k + 1) * step) };
      const histogram = (chosen, stroke, label) => lineMark(chosen, normalizeY(fractions ? "sum" : () => 1, binX({ y: "count", title: () => label, filter: null }, { x: bins, curve: "step", strokeWidth: 1.8, stroke, title: stroke })));
      return figure(`${name}${unit ? ` (${unit})` : ""}`, drawPlot({
        width: 410, height: 210, marginLeft: 48, marginTop: 10, marginBottom: 24,
        x: { domain, label: null, ticks: 6, tickFormat: short, tickSize: 3 },
        y: { label: null, ticks: 4, tickFormat: fractions ? (value) => `${short(100 * value)} %` : short, tickSize: 0, grid: true, zero: true },
        marks: [ruleY([0]), series.map((one) => histogram(...one))],
      }));
    }));
  }
}
