// Positions of the particles in each tomogram.
"use strict";

class Places {
  constructor(report, explorer) {
    this.explorer = explorer;
    const { points } = report;
    this.category = points.categories.find((category) => category.name === "tomogram");
    this.coordinates = points.coordinates;
    this.members = this.category.labels.map(() => []);
    this.category.codes.forEach((code, i) => this.members[code].push(i));
    this.xy = explorer.addPlot(byId("plane-xy"));
    this.xz = explorer.addPlot(byId("plane-xz"));
    this.list();
    const step = (by) => this.choose((this.chosen + by + this.members.length) % this.members.length);
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    this.choose(0);
  }

  list() {
    const host = byId("tomogram-list"), clusters = this.explorer.points.categories[0];
    this.rows = this.category.labels.map((label, k) => {
      const row = element("button", { class: "row", onclick: () => this.choose(k), title: label },
        element("span", { class: "name" }, label), element("span", {}, whole(this.members[k].length)), clusterStack(this.members[k], clusters));
      host.append(row);
      return row;
    });
  }

  choose(k) {
    this.chosen = k;
    this.rows.forEach((row, other) => row.classList.toggle("on", other === k));
    const host = byId("tomogram-list"), row = this.rows[k], top = row.offsetTop - host.offsetTop;
    if (top < host.scrollTop || top + row.offsetHeight > host.scrollTop + host.clientHeight)
      host.scrollTop = top - host.clientHeight / 2;
    byId("tomogram-name").textContent = `${this.category.labels[k]}, ${whole(this.members[k].length)} particles`;
    const { x, y, z, unit } = this.coordinates, members = Int32Array.from(this.members[k]);
    this.xy.setPoints(x, y, members, { names: [`x (${unit})`, `y (${unit})`] });
    // the xz plane is aligned with the xy plane above and has the same scale
    const scale = this.xy.scales().sx, [low, high] = range(z, members);
    this.xz.host.style.height = Math.min(420, Math.max(130, (high - low) * scale + MARGIN.top + MARGIN.bottom)) + "px";
    this.xz.resize();
    this.xz.setPoints(x, z, members, { names: [`x (${unit})`, `z (${unit})`], scale });
    this.explorer.look();
  }
}
