// Latent space: planes, colors, legend and selection, which the tomograms share.
"use strict";

class Explorer {
  constructor(report) {
    this.report = report;
    this.points = report.points;
    this.count = report.points.count;
    for (const score of this.points.scores) score.values = this.points.columns[score.column];
    this.colours = new Uint32Array(this.count);
    this.shown = new Uint8Array(this.count).fill(1);
    this.selected = null;
    this.isolated = new Set();
    this.plots = [];
    this.tip = document.getElementById("tip");
    this.every = Int32Array.from({ length: this.count }, (_, i) => i);
    this.latent = this.addPlot(document.getElementById("latent"));
    this.controls();
    this.choosePlane(0);
    this.chooseColour(0);
    this.selectionChanged();
  }

  addPlot(host) {
    const plot = new Scatter(host, {
      hover: (i, event) => this.showTip(i, event),
      select: (found, mode) => this.select(found, mode),
    });
    this.plots.push(plot);
    return plot;
  }

  // controls

  controls() {
    const { planes, categories, scores } = this.points;
    const fill = (id, names, chosen) => {
      const menu = document.getElementById(id);
      names.forEach((name, k) => menu.append(element("option", { value: k }, name)));
      menu.addEventListener("change", () => chosen(+menu.value));
      return menu;
    };
    fill("plane", planes.map((plane) => plane.name), (k) => this.choosePlane(k));
    this.colourMenu = fill("colour", [...categories, ...scores].map((entry) => entry.name), (k) => this.chooseColour(k));
    const tools = document.querySelectorAll("[data-tool]");
    tools.forEach((button) => button.addEventListener("click", () => {
      tools.forEach((other) => other.setAttribute("aria-pressed", other === button));
      this.plots.forEach((plot) => { plot.tool = button.dataset.tool; });
    }));
    document.getElementById("whole").addEventListener("click", () => this.plots.forEach((plot) => plot.resetView()));
    document.getElementById("all").addEventListener("click", () => { this.isolated.clear(); this.filterChanged(); });
    document.getElementById("clear").addEventListener("click", () => this.select([], "replace"));
    document.getElementById("invert").addEventListener("click", () => this.select(this.every.filter((i) => this.shown[i] && !(this.selected && this.selected[i])), "replace"));
    document.getElementById("json").addEventListener("click", () => this.download("json"));
    document.getElementById("text").addEventListener("click", () => this.download("txt"));
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") this.select([], "replace"); });
  }

  choosePlane(k) {
    const plane = this.points.planes[k];
    this.plane = plane;
    const { columns } = this.points;
    this.latent.setPoints(columns[plane.x], columns[plane.y], this.every, { equal: plane.equal, names: [plane.x_label, plane.y_label], ticks: plane.ticks });
    this.placeLabels();
    this.look();
  }

  chooseColour(k) {
    const { categories, scores } = this.points;
    this.category = k < categories.length ? categories[k] : null;
    this.score = k < categories.length ? null : scores[k - categories.length];
    this.colourMenu.value = k;
    this.isolated.clear();
    if (this.category) {
      const packed = this.category.colours.map(packedColour);
      for (let i = 0; i < this.count; i++) this.colours[i] = packed[this.category.codes[i]];
      this.countLegend();
    } else {
      const values = this.score.values;
      this.ends = percentiles(values, 0.01, 0.99);
      const grey = packedColour("#c5ccd5");
      for (let i = 0; i < this.count; i++)
        this.colours[i] = Number.isFinite(values[i]) ? rampColour((values[i] - this.ends[0]) / (this.ends[1] - this.ends[0])) : grey;
    }
    this.placeLabels();
    this.filterChanged();
  }

  countLegend() {
    this.counts = new Int32Array(this.category.labels.length);
    for (const code of this.category.codes) this.counts[code]++;
  }

  legend() {
    const host = document.getElementById("legend");
    host.replaceChildren();
    document.getElementById("legend-name").textContent = (this.category || this.score).name;
    document.getElementById("all").hidden = document.getElementById("legend-hint").hidden = !this.category;
    if (this.score) {
      host.append(element("div", { style: "padding:6px 8px" },
        element("div", { class: "ramp", style: `background:linear-gradient(90deg,${RAMP.join(",")})` }),
        element("div", { class: "ends" }, element("span", {}, "≤ " + short(this.ends[0])), element("span", {}, "≥ " + short(this.ends[1]))),
        element("p", { class: "hint" }, "The color scale spans the 1st to the 99th percentile.")));
      return;
    }
    this.category.labels.forEach((label, code) => {
      if (!this.counts[code] && this.category.labels.length > 12) return;
      host.append(element("button", {
        class: "row" + (this.isolated.size && !this.isolated.has(code) ? " off" : ""), "data-code": code, title: label,
        onclick: () => this.toggle(code),
      }, element("i", { style: `background:${this.category.colours[code]}` }), element("span", { class: "name" }, label), element("span", {}, whole(this.counts[code]))));
    });
  }

  toggle(code) {
    if (this.isolated.has(code)) this.isolated.delete(code);
    else this.isolated.add(code);
    this.filterChanged();
  }

  showOnlyCluster(number) {
    this.chooseColour(0);
    this.isolated.add(number);
    this.filterChanged();
    document.getElementById("latents").scrollIntoView({ behavior: "smooth" });
  }

  filterChanged() {
    for (let i = 0; i < this.count; i++)
      this.shown[i] = !this.isolated.size || this.isolated.has(this.category.codes[i]) ? 1 : 0;
    this.legend();
    this.look();
  }

  look() {
    for (const plot of this.plots) plot.setLook(this.colours, this.shown, this.selected);
  }

  placeLabels() {
    // cluster numbers at the representative particles
    const centres = this.points.centres, { columns } = this.points;
    if (this.category !== this.points.categories[0] || !centres) return this.latent.setLabels([]);
    this.latent.setLabels(Array.from(centres, (i, k) => ({ x: columns[this.plane.x][i], y: columns[this.plane.y][i], text: String(k), colour: this.category.colours[k] })));
  }

  // hover

  describe(i) {
    const lines = [];
    for (const category of this.points.categories) {
      const label = category.labels[category.codes[i]];
      lines.push(label.startsWith(category.name) ? label : `${category.name}: ${label}`);
    }
    for (const score of this.points.scores.slice(0, 5)) lines.push(`${score.name}: ${short(score.values[i])}`);
    return lines;
  }

  showTip(i, event) {
    if (i < 0) { this.tip.style.display = "none"; return; }
    const text = element("div", {}, element("b", {}, `particle ${whole(this.indexOf(i))}`), ...this.describe(i).map((line) => element("div", {}, line)));
    this.tip.replaceChildren(text);
    if (this.report.volumes) {
      // projection of the volume of its cluster
      const picture = element("canvas");
      drawView(picture, this.report.volumes, this.points.categories[0].codes[i], 3);
      this.tip.append(picture);
    }
    this.tip.style.display = "flex";
    const { offsetWidth: wide, offsetHeight: tall } = this.tip;
    this.tip.style.left = Math.min(event.clientX + 14, window.innerWidth - wide - 6) + "px";
    this.tip.style.top = Math.min(event.clientY + 14, window.innerHeight - tall - 6) + "px";
  }

  indexOf(i) {
    return this.points.index ? this.points.index[i] : i;
  }

  // selection

  select(found, mode) {
    let chosen = mode === "replace" || !this.selected ? new Uint8Array(this.count) : this.selected;
    if (mode === "remove" && !this.selected) chosen = new Uint8Array(this.count);
    for (const i of found) chosen[i] = mode === "remove" ? 0 : 1;
    this.selected = chosen.includes(1) ? chosen : null;
    this.selectionChanged();
    this.look();
  }

  selection() {
    // rows of the particle table, ascending
    return this.selected ? Array.from(this.every.filter((i) => this.selected[i]), (i) => this.indexOf(i)).sort((a, b) => a - b) : [];
  }

  selectionChanged() {
    const chosen = this.selected ? this.every.filter((i) => this.selected[i]) : [];
    const host = document.getElementById("selected");
    host.replaceChildren(element("span", { class: "count" }, whole(chosen.length), element("small", {}, ` of ${whole(this.count)} particles` + (chosen.length ? `, ${percent(chosen.length / this.count)}` : ""))));
    const clusters = this.points.categories[0], counts = new Int32Array(clusters.labels.length);
    for (const i of chosen) counts[clusters.codes[i]]++;
    const stack = element("div", { class: "stack" });
    counts.forEach((count, k) => { if (count) stack.append(element("div", { style: `background:${clusters.colours[k]};flex:${count}`, title: `${clusters.labels[k]}: ${whole(count)}` })); });
    host.append(stack);
    for (const id of ["json", "text", "clear"]) document.getElementById(id).disabled = !chosen.length;
  }

  download(kind) {
    const indices = this.selection(), { run, round, total } = { ...this.report, total: this.points.total };
    const text = kind === "json"
      ? JSON.stringify({ format: "opustomo indices 1", run, round, particles: total, star: this.report.star, indices })
      : `# ${indices.length} of ${total} particles of ${run}, epoch ${round}; rows of the particle table, counted from 0\n` + indices.join("\n") + "\n";
    const link = element("a", { download: `selection.${kind}`, href: URL.createObjectURL(new Blob([text], { type: "application/octet-stream" })) });
    this.lastDownload = text;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}
