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
  if (verdict.motion)
    host.append(element("p", {}, mark(verdict.motion.verdict), element("span", {}, `Change along ${verdict.motion.coordinate}. ${verdict.motion.reason}`)));
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
function pairMatrix({ clusters, pairs }) {
  const side = Math.max(30, Math.min(64, Math.floor(460 / clusters.length))), edge = 34, size = edge + side * clusters.length;
  const cells = pairs.flatMap(({ first, second, outcome, difference, error }) => {
    const [color, words] = OUTCOMES[outcome] || ["#e8ebef", outcome];
    const text = side >= 40 && Number.isFinite(difference) ? `${short(Math.round(100 * difference))} %` : "";
    const title = `classes ${first} and ${second}: ${words}, difference ${short(difference)} ± ${short(error)}`;
    return [[first, second], [second, first]].map(([row, column]) => ({ row, column, color, words, text, title }));
  });
  const badges = [["x", { frameAnchor: "top", dy: -edge / 2 }], ["y", { frameAnchor: "left", dx: -edge / 2 }]].flatMap(([axis, place]) => [
    dotMark(clusters, { [axis]: "number", ...place, r: 11, fill: "color", stroke: null }),
    textMark(clusters, { [axis]: "number", ...place, text: "number", textAnchor: "middle", lineAnchor: "middle", fill: ({ color }) => inkOn(color), fontSize: 13, fontWeight: 650 }),
  ]);
  const scale = { axis: null, domain: clusters.map(({ number }) => number), padding: 0 };
  const drawing = drawPlot({
    width: size, height: size, margin: 0, marginTop: edge, marginLeft: edge, x: scale, y: scale, r: { type: "identity" },
    marks: [
      cellMark(cells, { x: "column", y: "row", fill: "color", inset: 1, rx: 3, title: "title" }),
      textMark(cells, { x: "column", y: "row", text: "text", fill: ({ color }) => inkOn(color), fontSize: 12, pointerEvents: "none" }), ...badges,
    ],
  });
  const key = element("div", { class: "key" }, ...Object.values(OUTCOMES).filter(([, words]) => cells.some((one) => one.words === words))
    .map(([color, words]) => element("span", {}, element("i", { style: `background:${color}` }), words)));
  return figure("Do two classes differ? Power of the difference map, in % of that of the map", drawing, key);
}
