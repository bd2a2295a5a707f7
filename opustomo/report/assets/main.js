// Entry point: builds all sections of the page.
"use strict";

function fillHead(report) {
  document.getElementById("subtitle").textContent = report.subtitle;
  const facts = document.getElementById("facts");
  for (const [name, value] of report.facts) facts.append(element("li", {}, element("b", {}, value), element("span", {}, name)));
  if (report.notes.length)
    document.getElementById("notes").append(element("div", { class: "notes" }, ...report.notes.map((note) => element("div", {}, note))));
  const settings = document.getElementById("settings");
  for (const [title, rows] of report.settings) {
    const list = element("dl");
    for (const [name, value] of rows) list.append(element("dt", {}, name), element("dd", {}, value));
    settings.append(element("section", {}, element("h3", {}, title), list));
  }
  if (report.command) document.getElementById("command").append(element("pre", {}, element("code", {}, report.command)));
}

// Verdict of dsdsh validate on the classification and on each class
function showVerdict(report, host) {
  const { verdict, clusters } = report;
  const mark = (text) => element("b", { class: `verdict ${text.replaceAll(" ", "-")}` }, text);
  host.append(element("p", {}, mark(verdict.verdict), element("span", {}, verdict.summary)));
  host.append(element("ul", {}, ...verdict.reasons.map((reason) => element("li", {}, reason))));
  const table = element("table", { class: "verdicts" });
  for (const one of verdict.classes) {
    const colour = clusters[one.class].colour;
    table.append(element("tr", {},
      element("td", {}, element("span", { class: "badge", style: `background:${colour};color:${inkOn(colour)}` }, String(one.class))),
      element("td", {}, mark(one.verdict)), element("td", {}, one.reasons.join(" "))));
  }
  host.append(table);
  if (verdict.motion)
    host.append(element("p", {}, mark(verdict.motion.verdict), element("span", {}, `Change along ${verdict.motion.coordinate}. ${verdict.motion.reason}`)));
}

function start() {
  const report = unpack(JSON.parse(document.getElementById("report-data").textContent));
  fillHead(report);
  if (report.verdict) showVerdict(report, document.getElementById("verdict-text"));
  else document.getElementById("verdict").hidden = true;
  showTraining(report, document.getElementById("training-charts"));
  const explorer = new Explorer(report);
  showClusters(report, document.getElementById("cluster-cards"), (number) => explorer.showOnlyCluster(number));
  let movies = [], places = null;
  if (report.movies.length) movies = showMovies(report, document.getElementById("movie-cards"));
  else document.getElementById("components").hidden = true;
  if (report.points.coordinates) places = new Places(report, explorer);
  else document.getElementById("tomograms").hidden = true;
  for (const link of document.querySelectorAll("nav a"))
    link.hidden = document.querySelector(link.getAttribute("href")).hidden;
  window.opustomoReport = { report, explorer, movies, places };
}

start();
