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

function start() {
  const report = unpack(JSON.parse(document.getElementById("report-data").textContent));
  fillHead(report);
  showVerdict(report, document.getElementById("verdict-text"), document.getElementById("verdict-picture"));
  showTraining(report, document.getElementById("training-charts"));
  showPoses(report, document.getElementById("pose-charts"));
  showScree(report, document.getElementById("scree"));
  const explorer = new Explorer(report);
  showClusters(report, document.getElementById("cluster-cards"), (number) => explorer.showOnlyCluster(number));
  let movies = [], places = null;
  if (report.movies.length) movies = showMovies(report, document.getElementById("movie-cards"));
  else if (!report.variance.length) document.getElementById("components").hidden = true;
  if (report.points.coordinates) places = new Places(report, explorer);
  else document.getElementById("tomograms").hidden = true;
  for (const link of document.querySelectorAll("nav a"))
    link.hidden = document.querySelector(link.getAttribute("href")).hidden;
  window.opustomoReport = { report, explorer, movies, places };
}

start();
