// Volumes: comparison in 3D, movies along components, the volume of a clicked particle, and cluster cards.
"use strict";

const VIEWS = ["slice z", "slice y", "slice x", "projection z", "projection y", "projection x"];
const MOVIE_COLOR = "#8fa3b8", PARTICLE_COLOR = "#5b6b7d";

// images: bytes of shape (volumes, views, side, side)
function drawView(canvas, images, volume, view) {
  const [, views, side] = images.shape;
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const context = canvas.getContext("2d"), picture = context.createImageData(side, side);
  const start = (volume * views + view) * side * side;
  for (let row = 0; row < side; row++)
    for (let column = 0; column < side; column++) {
      const gray = images[start + (side - 1 - row) * side + column], at = 4 * (row * side + column);
      picture.data[at] = picture.data[at + 1] = picture.data[at + 2] = gray;
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

// All volumes of the page by group, with their names and colors
class VolumeLibrary {
  static async load(report) {
    const library = new VolumeLibrary(), { groups, level } = report.surfaces;
    library.contour = new Contour(level);
    library.groups = Object.fromEntries(await Promise.all(Object.entries(groups).map(async ([kind, group]) => {
      const grids = await inflateGrids(group.grids), side = group.grids.shape[1];
      return [kind, { ...group, volumes: grids.map((bytes, k) => ({ bytes, side, apix: group.apix, kind, number: k, ...library.describe(report, kind, group, k) })) }];
    })));
    return library;
  }

  describe(report, kind, group, k) {
    if (kind === "cluster") return { name: `cluster ${k}`, color: report.clusters[k].color };
    if (kind === "sampled") return { name: `particle ${whole(report.points.index ? report.points.index[group.particles[k]] : group.particles[k])}`, color: PARTICLE_COLOR };
    return { name: `${kind}, score ${short(group.scores[k])}`, color: MOVIE_COLOR };
  }

  movies() {
    return Object.keys(this.groups).filter((kind) => kind.includes("PC"));
  }
}

const paneLabel = (volume, more = "") => element("div", { class: "pane-label" },
  volume.kind === "cluster" ? badge(volume.number, volume.color) : element("i", { style: `background:${volume.color}` }),
  element("span", {}, (volume.kind === "cluster" ? "" : volume.name) + more));

// Section "Volumes": all clusters, or two volumes side by side or overlaid
class Comparison {
  constructor(report, library) {
    Object.assign(this, { report, library, mode: "all" });
    this.view = new VolumeView(byId("volume-view"), library.contour);
    this.menus = ["first", "second"].map((id) => this.fill(byId(id)));
    this.menus[1].selectedIndex = Math.min(1, this.menus[1].options.length - 1);
    this.opacity = byId("opacity");
    this.opacity.addEventListener("input", () => this.show());
    this.tabs = document.querySelectorAll("[data-layout]");
    this.tabs.forEach((tab) => tab.addEventListener("click", () => this.choose(tab.dataset.layout)));
    byId("volume-buttons").append(...this.view.buttons());
    this.choose("all");
  }

  fill(menu) {
    for (const [kind, { volumes }] of Object.entries(this.library.groups)) {
      const title = { cluster: "clusters", sampled: "sampled particles" }[kind] || kind;
      menu.append(element("optgroup", { label: title }, ...volumes.map(({ name, number }) => element("option", { value: `${kind}/${number}` }, name))));
    }
    menu.addEventListener("change", () => this.show());
    return menu;
  }

  chosen(k) {
    const [kind, number] = this.menus[k].value.split("/");
    return this.library.groups[kind].volumes[number];
  }

  choose(mode) {
    this.mode = mode;
    this.tabs.forEach((tab) => tab.setAttribute("aria-pressed", tab.dataset.layout === mode));
    byId("pair").hidden = mode === "all";
    byId("opacity-label").hidden = mode !== "overlaid";
    this.show();
  }

  // second volume in another color if both have the same
  show() {
    if (this.mode === "all") {
      const { clusters } = this.report;
      return this.view.setPanes(this.library.groups.cluster.volumes.map((volume) =>
        ({ label: paneLabel(volume, `${whole(clusters[volume.number].count)} particles`), surfaces: [{ volume, color: volume.color }] })));
    }
    const pair = [this.chosen(0), this.chosen(1)], colors = pair.map(({ color }) => color);
    const tell = (k) => paneLabel({ ...pair[k], color: colors[k] }, pair[k].kind === "cluster" ? `cluster ${pair[k].number}` : "");
    if (this.mode === "side") return this.view.setPanes(pair.map((volume, k) => ({ label: tell(k), surfaces: [{ volume, color: colors[k] }] })));
    if (colors[0] === colors[1]) colors[1] = "#b0483a";
    this.view.setPanes([{ label: element("div", {}, tell(0), tell(1)), surfaces: [{ volume: pair[0], color: colors[0] }, { volume: pair[1], color: colors[1], opacity: +this.opacity.value }] }]);
  }
}

// Movies along all components, in step
class Movies {
  constructor(library) {
    this.library = library;
    this.kinds = library.movies();
    this.count = Math.max(...this.kinds.map((kind) => library.groups[kind].volumes.length));
    this.view = new VolumeView(byId("movie-view"), library.contour, 46);
    this.slider = element("input", { type: "range", min: 0, max: this.count - 1, value: 0, "aria-label": "step of the movie", oninput: () => { this.pause(); this.show(+this.slider.value); } });
    this.button = element("button", { onclick: () => (this.timer ? this.pause() : this.play()) });
    byId("movie-buttons").append(this.button, element("label", { class: "slider" }, "step", this.slider), ...this.view.buttons());
    this.step = 1;
    this.show(0);
    this.play();
  }

  show(frame) {
    this.frame = frame;
    this.slider.value = frame;
    this.view.setPanes(this.kinds.map((kind) => {
      const { volumes, about, scores } = this.library.groups[kind], at = Math.min(frame, volumes.length - 1);
      const label = element("div", { class: "pane-label" }, element("span", {}, element("b", {}, kind), ` ${about}`, element("br"), `score ${short(scores[at])}`));
      return { label, surfaces: [{ volume: volumes[at], color: MOVIE_COLOR }] };
    }));
  }

  play() {
    this.button.textContent = "pause";
    this.timer = setInterval(() => {
      if (!this.view.visible || document.hidden || this.count < 2) return;
      if (this.frame + this.step < 0 || this.frame + this.step >= this.count) this.step = -this.step;
      this.show(this.frame + this.step);
    }, 220);
  }

  pause() {
    this.button.textContent = "play";
    clearInterval(this.timer);
    this.timer = null;
  }
}

// Volume of the sampled particle that is nearest to the clicked one
class ParticleVolume {
  constructor(report, library, explorer) {
    Object.assign(this, { report, library, explorer });
    this.view = new VolumeView(byId("particle-view"), library.contour, 0);
    this.compare = byId("with-center");
    this.compare.addEventListener("change", () => this.show());
    byId("particle-buttons").append(this.view.contour.slider());
    explorer.clicked = (i) => this.choose(i);
    this.choose(this.report.points.centers[0], false);
  }

  choose(i, marked = true) {
    this.chosen = i;
    if (marked) this.explorer.mark(i);
    this.show();
  }

  show() {
    const { points } = this.report, { codes, colors, labels } = points.categories[0], i = this.chosen;
    const { sampled, cluster } = this.library.groups, code = codes[i], center = cluster.volumes[code];
    const volume = sampled.volumes[points.columns.nearest[i]], color = colors[code];
    const surfaces = [{ volume, color }];
    if (this.compare.checked && center) surfaces.push({ volume: center, color: "#39424e", opacity: 0.28 });
    const distance = points.columns.distance[i], own = sampled.particles[points.columns.nearest[i]] === i;
    byId("particle-text").replaceChildren(
      element("b", {}, `Particle ${whole(this.explorer.indexOf(i))}`), `, ${labels[code]}. `,
      own ? "The volume is decoded at its own latent." : `The volume is that of ${volume.name}, the nearest of the ${sampled.volumes.length} sampled particles. The distance of the latents is ${distance < 0.001 ? "less than 0.001" : short(+distance.toPrecision(2))} of their spread.`);
    this.view.setPanes([{ label: element("div"), surfaces }]);
  }
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

function showClusters(report, host, showOnly) {
  const cards = element("div", { class: report.clusters.length > 3 ? "cards" : "cards few" });
  for (const cluster of report.clusters) {
    const head = element("header", {}, badge(cluster.number, cluster.color),
      element("b", {}, whole(cluster.count)), element("span", {}, `particles, ${percent(cluster.share)}`),
      element("button", { onclick: () => showOnly(cluster.number), title: "Show only this cluster in the latent space" }, "show"));
    const card = element("article", { class: "card", "data-cluster": cluster.number }, head);
    if (report.volumes) card.append(...[[0, 1, 2], [3, 4, 5]].map((views) => viewRow(report.volumes, cluster.number, views, report.pictures.clusters)));
    if (cluster.curve) card.append(fscChart(report, cluster, report.clusters.length > 3 ? 276 : 390));
    if (cluster.evidence.length)
      card.append(element("table", {}, ...cluster.evidence.map(([name, value]) => element("tr", {}, element("td", {}, name), element("td", {}, value)))));
    cards.append(card);
  }
  host.append(cards);
}
