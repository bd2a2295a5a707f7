// Entry point: builds all sections of the page.
"use strict";

function fillHead(report) {
  byId("subtitle").textContent = report.subtitle;
  byId("facts").append(...report.facts.map(([name, value]) => element("li", {}, element("b", {}, value), element("span", {}, name))));
  if (report.notes.length) byId("notes").append(element("div", { class: "notes" }, ...report.notes.map((note) => element("div", {}, note))));
  for (const [title, rows] of report.settings)
    byId("settings").append(element("section", {}, element("h3", {}, title),
      element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]))));
  for (const { time, command } of report.history)
    byId("history").append(element("div", { class: "step" }, element("span", {}, time), commandBlock(command)));
  byId("select-command").append(commandBlock(report.commands.select));
}

function start() {
  const times = { started: performance.now() };
  const report = unpack(JSON.parse(byId("report-data").textContent));
  const hide = (id) => { byId(id).hidden = true; };
  fillHead(report);
  showVerdict(report, byId("verdict-text"), byId("verdict-picture"));
  showTraining(report, byId("training-charts"));
  showPoses(report, byId("pose-charts"));
  showScree(report, byId("scree"));
  showResolution(report, byId("resolution-chart"));
  const explorer = new Explorer(report), page = { report, times, explorer, distributions: new Distributions(report, explorer) };
  showClusters(report, byId("cluster-cards"), (number) => explorer.showOnlyCluster(number));
  if (report.points.coordinates) page.places = new Places(report, explorer);
  else hide("tomograms");
  if (!report.surfaces || !report.points.columns.nearest) ["particle-panel", "click-hint"].forEach(hide);
  if (!report.surfaces || !Object.keys(report.surfaces.groups).some((kind) => kind.includes("PC"))) hide("movies");
  if (!report.surfaces) hide("volumes");
  if (byId("movies").hidden && !report.variance.length) hide("components");
  for (const link of document.querySelectorAll("nav a")) link.hidden = document.querySelector(link.getAttribute("href")).hidden;
  window.opustomoReport = page;
  page.ready = showVolumes(page);
}

// The volumes are unpacked after the rest of the page has been drawn
async function showVolumes(page) {
  const { report, times, explorer } = page;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  times.opened = performance.now();
  if (!report.surfaces) return;
  const library = await VolumeLibrary.load(report);
  page.comparison = new Comparison(report, library);
  if (!byId("movies").hidden) page.movies = new Movies(library);
  if (report.points.columns.nearest) page.particle = new ParticleVolume(report, library, explorer);
  times.volumes = performance.now();
}

start();
