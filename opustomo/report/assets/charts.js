// Line charts as SVG.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svgElement(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// lines: [{x, y, colour, dash, name}]; options: width, height, title, xLabel, yRange, xTicks [[value, text]], marks
function lineChart(lines, options = {}) {
  const { width = 300, height = 170, title = "", xLabel = "", xTicks = null, marks = [] } = options;
  const left = 44, right = 10, top = 8, bottom = xLabel ? 30 : 19;
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
  svg.append(svgElement("text", { x: width - right, y: height - 3, "text-anchor": "end" }, xLabel));
  for (const { x, y, colour, dash, name } of lines) {
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

const TRAINING = "#0072b2", HELD_OUT = "#e69f00";

function showTraining(report, host) {
  const { losses, convergence } = report;
  const parts = [["training", TRAINING], ["validation", HELD_OUT]].filter(([name]) => losses && losses[name]);
  const charts = element("div", { class: "charts" });
  if (parts.length) {
    const key = element("div", { class: "key" });
    for (const [name, colour] of parts)
      key.append(element("span", {}, element("i", { style: `background:${colour}` }), name === "validation" ? "held out" : name));
    host.append(key, charts);
    for (const [title, field] of [["generative loss", "gen_loss"], ["total loss", "total_loss"], ["SNR", "snr"]])
      charts.append(lineChart(
        parts.map(([name, colour]) => ({ x: losses[name].epochs, y: losses[name][field], colour, name })),
        { title, xLabel: "epoch (from 0)", width: 305 }));
  } else host.append(charts, element("p", {}, "run.log records no completed epoch."));
  if (convergence) {
    charts.append(lineChart(
      [{ x: convergence.epoch, y: convergence.ari_last, colour: "#009e73", name: "with the last epoch" },
       { x: convergence.epoch, y: convergence.ari_previous, colour: TRAINING, name: "with the previous epoch" },
       { x: convergence.epoch, y: convergence.displacement, colour: "#cc79a7", name: "RMS displacement" }],
      { title: "stability of the latents", xLabel: "epoch (from 0)", width: 305 }));
    const key = element("div", { class: "key" });
    for (const [colour, text] of [["#009e73", "ARI of clusters with the last epoch"], [TRAINING, "ARI with the previous epoch"], ["#cc79a7", "RMS displacement since the previous epoch / spread"]])
      key.append(element("span", {}, element("i", { style: `background:${colour}` }), text));
    host.append(key);
  }
}
