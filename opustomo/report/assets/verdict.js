// Verdict on the classes, and the pictures that support it.
"use strict";

// Verdict of dsdsh validate on the classification and on each class
function showVerdict(report, host, pictures) {
  const { verdict, clusters } = report;
  if (!verdict) {
    const missing = clusters.some((cluster) => cluster.evidence.length) ? "There is no verdict on these clusters." : "Half-map FSCs have not been computed.";
    host.append(element("p", {}, `${missing} Run this command to know whether the classes are real:`), commandBlock(report.commands.validate), pictures);
    if (report.volumes) pictures.append(classMaps(report, null));
    return;
  }
  const mark = (text) => element("b", { class: `verdict ${text.replaceAll(" ", "-")}` }, text);
  host.append(element("p", {}, mark(verdict.verdict), element("span", {}, verdict.summary)));
  host.append(pictures);
  if (report.volumes) pictures.append(classMaps(report, verdict));
  if (report.pairs.length) pictures.append(pairMatrix(report));
  host.append(element("ul", {}, ...verdict.reasons.map((reason) => element("li", {}, reason))));
  const table = element("table", { class: "verdicts" });
  for (const one of verdict.classes) {
    table.append(element("tr", {},
      element("td", {}, badge(one.class, clusters[one.class].color)),
      element("td", {}, mark(one.verdict)), element("td", {}, one.reasons.join(" "))));
  }
  host.append(table);
  if (verdict.motion)
    host.append(element("p", {}, mark(verdict.motion.verdict), element("span", {}, `Change along ${verdict.motion.coordinate}. ${verdict.motion.reason}`)));
}

// Projections of the maps of all classes
function classMaps(report, verdict) {
  const maps = element("div", { class: "maps" });
  for (const cluster of report.clusters) {
    const canvas = element("canvas", { role: "img", "aria-label": `projection of class ${cluster.number}` });
    drawView(canvas, report.volumes, cluster.number, 3);
    const one = verdict && verdict.classes.find((entry) => entry.class === cluster.number);
    maps.append(element("div", { class: "map" }, scaled(canvas, report.volumes.shape[2], report.pictures.clusters),
      badge(cluster.number, cluster.color),
      element("div", {}, `${whole(cluster.count)} particles`), one ? element("div", {}, one.verdict) : null));
  }
  return element("figure", {}, element("figcaption", {}, "Maps of the classes, projected along z, with a common gray scale"), maps);
}

const OUTCOMES = {
  different: ["#2f3b49", "different"], same: ["#f8dcd6", "the same"], noise: ["#f3e2b8", "explained by noise"], unclear: ["#e8ebef", "cannot tell"],
};

// Difference of each pair of classes, as found in the subtomograms
function pairMatrix(report) {
  const { clusters, pairs } = report, cell = Math.max(30, Math.min(64, Math.floor(460 / clusters.length))), edge = 34;
  const size = edge + cell * clusters.length;
  const svg = svgElement("svg", { width: size, height: size, viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "differences between classes" });
  for (const { number, color } of clusters) {
    const at = edge + (number + 0.5) * cell;
    for (const [x, y] of [[at, edge / 2], [edge / 2, at]]) {
      svg.append(svgElement("circle", { cx: x, cy: y, r: 11, fill: color }));
      svg.append(svgElement("text", { x, y: y + 4, "text-anchor": "middle", style: `fill:${inkOn(color)};font-weight:650` }, String(number)));
    }
  }
  const seen = new Set();
  for (const { first, second, outcome, difference, error } of pairs) {
    const [color, words] = OUTCOMES[outcome] || ["#e8ebef", outcome];
    seen.add(words);
    for (const [row, column] of [[first, second], [second, first]]) {
      const box = svgElement("rect", { x: edge + column * cell + 1, y: edge + row * cell + 1, width: cell - 2, height: cell - 2, rx: 3, fill: color });
      box.append(svgElement("title", {}, `classes ${first} and ${second}: ${words}, difference ${short(difference)} ± ${short(error)}`));
      svg.append(box);
      if (cell >= 40 && Number.isFinite(difference))
        svg.append(svgElement("text", { x: edge + (column + 0.5) * cell, y: edge + (row + 0.5) * cell + 4, "text-anchor": "middle", style: `fill:${inkOn(color)}` }, `${short(Math.round(100 * difference))} %`));
    }
  }
  const key = element("div", { class: "key" });
  for (const [color, words] of Object.values(OUTCOMES)) if (seen.has(words)) key.append(element("span", {}, element("i", { style: `background:${color}` }), words));
  return element("figure", {}, element("figcaption", {}, "Do two classes differ? Power of the difference map, in % of that of the map"), svg, key);
}
