// Latent space: planes, colors, legend and selection, which the tomograms share.
"use strict";

class Explorer {
  constructor(report) {
    this.report = report;
    this.points = report.points;
    this.count = report.points.count;
    this.axes = this.points.measures;
    this.scores = this.axes.filter(({ kind }) => kind !== "map");
    this.watchers = [];
    this.colors = new Uint32Array(this.count);
    this.shown = new Uint8Array(this.count).fill(1);
    this.selected = null;
    this.isolated = new Set();
    this.plots = [];
    this.tip = byId("tip");
    this.every = Int32Array.from({ length: this.count }, (_, i) => i);
    this.latent = this.addPlot(byId("latent"));
    this.controls();
    this.chooseAxes();
    this.chooseColor(0);
    this.selectionChanged();
  }

  addPlot(host) {
    const plot = new Scatter(host, {
      hover: (i, event) => this.showTip(i, event),
      select: (found, mode) => this.select(found, mode),
      click: (i) => (this.clicked ? this.clicked(i) : this.select([], "replace")),
    });
    this.plots.push(plot);
    return plot;
  }

  // controls

  controls() {
    const fill = (id, names, chosen) => {
      const menu = byId(id);
      names.forEach((name, k) => menu.append(element("option", { value: k }, name)));
      menu.addEventListener("change", chosen);
      return menu;
    };
    const names = this.axes.map(({ name }) => name);
    this.axisMenus = ["across", "upward"].map((id) => fill(id, names, () => this.chooseAxes()));
    this.axisMenus[1].selectedIndex = Math.min(1, names.length - 1);
    this.colorMenu = fill("color", [...this.points.categories, ...this.scores].map((entry) => entry.name), () => this.chooseColor(+this.colorMenu.value));
    const tools = document.querySelectorAll("[data-tool]");
    tools.forEach((button) => button.addEventListener("click", () => {
      tools.forEach((other) => other.setAttribute("aria-pressed", other === button));
      this.plots.forEach((plot) => { plot.tool = button.dataset.tool; });
    }));
    byId("whole").addEventListener("click", () => this.plots.forEach((plot) => plot.resetView()));
    byId("all").addEventListener("click", () => { this.isolated.clear(); this.filterChanged(); });
    byId("clear").addEventListener("click", () => this.select([], "replace"));
    byId("invert").addEventListener("click", () => this.select(this.every.filter((i) => this.shown[i] && !(this.selected && this.selected[i])), "replace"));
    byId("json").addEventListener("click", () => this.download("json"));
    byId("text").addEventListener("click", () => this.download("txt"));
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") this.select([], "replace"); });
  }

  chooseAxes() {
    const chosen = this.axisMenus.map((menu) => this.axes[+menu.value]), { columns } = this.points;
    this.plane = chosen.map(({ column }) => columns[column]);
    const equal = chosen.every(({ kind }) => kind === "map"), names = chosen.map(({ label, unit }) => (unit ? `${label} (${unit})` : label));
    this.latent.setPoints(...this.plane, this.every, { equal, names });
    this.placeLabels();
  }

  chooseColor(k) {
    const { categories, columns } = this.points;
    this.category = k < categories.length ? categories[k] : null;
    this.score = k < categories.length ? null : this.scores[k - categories.length];
    this.colorMenu.value = k;
    this.isolated.clear();
    if (this.category) {
      const packed = this.category.colors.map(packedColor);
      for (let i = 0; i < this.count; i++) this.colors[i] = packed[this.category.codes[i]];
      this.countLegend();
    } else {
      const values = columns[this.score.column], steps = Array.from({ length: 256 }, (_, k) => packedColor(rampColor(k / 255)));
      this.ends = percentiles(values, 0.01, 0.99);
      const gray = packedColor("#c5ccd5"), scale = 255 / (this.ends[1] - this.ends[0]);
      for (let i = 0; i < this.count; i++)
        this.colors[i] = Number.isFinite(values[i]) ? steps[Math.round(Math.min(255, Math.max(0, (values[i] - this.ends[0]) * scale)))] : gray;
    }
    this.placeLabels();
    this.filterChanged();
  }

  countLegend() {
    this.counts = new Int32Array(this.category.labels.length);
    for (const code of this.category.codes) this.counts[code]++;
  }

  legend() {
    const host = byId("legend");
    host.replaceChildren();
    byId("legend-name").textContent = (this.category || this.score).name;
    byId("all").hidden = byId("legend-hint").hidden = !this.category;
    if (this.score) {
      host.append(element("div", { style: "padding:6px 8px" },
        element("div", { class: "ramp", style: `background:linear-gradient(90deg,${[0, 0.25, 0.5, 0.75, 1].map(rampColor).join(",")})` }),
        element("div", { class: "ends" }, ...this.ends.map((end, k) => element("span", {}, `${"≤≥"[k]} ${short(end)} ${this.score.unit}`))),
        element("p", { class: "hint" }, "The color scale spans the 1st to the 99th percentile.")));
      return;
    }
    this.category.labels.forEach((label, code) => {
      if (!this.counts[code] && this.category.labels.length > 12) return;
      host.append(element("button", {
        class: "row" + (this.isolated.size && !this.isolated.has(code) ? " off" : ""), "data-code": code, title: label,
        onclick: () => this.toggle(code),
      }, element("i", { style: `background:${this.category.colors[code]}` }), element("span", { class: "name" }, label), element("span", {}, whole(this.counts[code]))));
    });
  }

  toggle(code) {
    if (this.isolated.has(code)) this.isolated.delete(code);
    else this.isolated.add(code);
    this.filterChanged();
  }

  showOnlyCluster(number) {
    this.chooseColor(0);
    this.isolated.add(number);
    this.filterChanged();
    byId("latents").scrollIntoView({ behavior: "smooth" });
  }

  filterChanged() {
    for (let i = 0; i < this.count; i++)
      this.shown[i] = !this.isolated.size || this.isolated.has(this.category.codes[i]) ? 1 : 0;
    this.legend();
    this.look();
  }

  look() {
    for (const plot of this.plots) plot.setLook(this.colors, this.shown, this.selected);
    for (const watcher of this.watchers) watcher();
  }

  placeLabels() {
    // cluster numbers at the representative particles
    const centers = this.points.centers, [x, y] = this.plane;
    if (this.category !== this.points.categories[0] || !centers) return this.latent.setLabels([]);
    this.latent.setLabels(Array.from(centers, (i, k) => ({ x: x[i], y: y[i], text: String(k), color: this.category.colors[k] })));
  }

  // ring around the particle whose volume is shown
  mark(i) {
    for (const plot of this.plots) { plot.marked = i; plot.drawOver(); }
  }

  // hover

  describe(i) {
    const lines = [];
    for (const category of this.points.categories) {
      const label = category.labels[category.codes[i]];
      lines.push(label.startsWith(category.name) ? label : `${category.name}: ${label}`);
    }
    for (const { name, column, unit } of this.scores.filter(({ kind }) => kind === "particle")) lines.push(`${name}: ${short(this.points.columns[column][i])} ${unit}`);
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
    const host = byId("selected");
    host.replaceChildren(element("span", { class: "count" }, whole(chosen.length), element("small", {}, ` of ${whole(this.count)} particles` + (chosen.length ? `, ${percent(chosen.length / this.count)}` : ""))));
    host.append(clusterStack(chosen, this.points.categories[0]));
    for (const id of ["json", "text", "clear"]) byId(id).disabled = !chosen.length;
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
