// Isosurfaces of volumes that one can turn, drawn by three.js.
"use strict";

const MOST_TRIANGLES = 300000;
const engines = new Map();

// Triangles of a volume {bytes, side, apix} at a level from 0 to 1; they are kept until another level is wanted
function isosurface(volume, level) {
  if (volume.level === level) return volume.geometry;
  const { side, apix } = volume;
  if (!engines.has(side)) engines.set(side, new libraries.MarchingCubes(side, new libraries.MeshBasicMaterial(), false, false, MOST_TRIANGLES));
  const engine = engines.get(side);
  engine.reset();
  engine.field.set(volume.bytes);
  engine.isolation = 255 * level;
  engine.update();
  const used = 3 * Math.min(engine.count, 3 * MOST_TRIANGLES), scale = (side / 2) * (apix || 1);
  if (volume.geometry) volume.geometry.dispose();
  const geometry = new libraries.BufferGeometry();
  geometry.setAttribute("position", new libraries.BufferAttribute(engine.positionArray.slice(0, used), 3));
  geometry.setAttribute("normal", new libraries.BufferAttribute(engine.normalArray.slice(0, used), 3));
  geometry.scale(scale, scale, scale);
  return Object.assign(volume, { level, geometry }).geometry;
}

// One density level for all views of the page, so that their surfaces can be compared
class Contour {
  constructor(level) {
    this.level = level;
    this.sliders = [];
    this.views = [];
  }

  slider() {
    const text = element("output");
    const input = element("input", { type: "range", min: 0.03, max: 0.97, step: 0.01, value: this.level, "aria-label": "contour level", oninput: () => this.set(+input.value) });
    this.sliders.push({ input, text });
    this.label();
    return element("label", { class: "slider", title: "The same level for all volumes of the page, in % of the highest density" }, "contour", input, text);
  }

  label() {
    for (const { input, text } of this.sliders) {
      input.value = this.level;
      text.textContent = `${Math.round(100 * this.level)} %`;
    }
  }

  set(level) {
    this.level = level;
    this.label();
    for (const view of this.views) view.changed();
  }
}

class VolumeView {
  // Panes [{label, surfaces: [{volume, color, opacity}]}] share one camera.
  // The label of a pane takes `header` pixels at its top.
  constructor(host, contour, header = 30) {
    Object.assign(this, { host, contour, header, panes: [], radius: 0, spinning: false });
    this.canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": "isosurfaces of volumes" });
    this.over = element("div", { class: "over" });
    host.append(this.canvas, this.over);
    try {
      this.renderer = new libraries.WebGLRenderer({ canvas: this.canvas, antialias: true, preserveDrawingBuffer: true });
    } catch {
      host.replaceChildren(element("p", { class: "hint", style: "padding:12px" }, "This browser offers no WebGL, which isosurfaces need. Slices and projections of the clusters are shown below."));
      return;
    }
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
    this.renderer.setClearColor(0xffffff);
    this.camera = new libraries.OrthographicCamera();
    this.scene = new libraries.Scene();
    this.scene.fog = new libraries.Fog(0xffffff, 1, 2);
    this.sky = new libraries.HemisphereLight(0xffffff, 0x6d7683, 1.9);
    this.sun = new libraries.DirectionalLight(0xffffff, 1.7);
    this.scene.add(this.sky, this.sun);
    this.controls = new libraries.TrackballControls(this.camera, this.canvas);
    Object.assign(this.controls, { staticMoving: true, rotateSpeed: 3, zoomSpeed: 1.5, noZoom: true });
    this.controls.addEventListener("change", () => this.draw());
    // the wheel scrolls the page until the view has been clicked
    this.canvas.addEventListener("pointerdown", () => { this.controls.noZoom = false; this.spin(false); });
    this.canvas.addEventListener("pointerleave", () => { this.controls.noZoom = true; });
    this.canvas.addEventListener("dblclick", () => this.resetView());
    new ResizeObserver(() => this.resize()).observe(host);
    new IntersectionObserver(([entry]) => this.watch(entry.isIntersecting)).observe(host);
    contour.views.push(this);
  }

  watch(visible) {
    this.visible = visible;
    if (!visible || this.running) return;
    this.running = true;
    const step = () => {
      this.running = this.visible;
      if (!this.visible) return;
      if (this.stale) this.build();
      if (this.spinning) this.turn(0.012);
      this.controls.update();
      requestAnimationFrame(step);
    };
    step();
  }

  setPanes(panes) {
    this.panes = panes;
    this.changed();
  }

  // surfaces are made when they come into view
  changed() {
    if (!this.renderer) return;
    this.stale = true;
    if (this.visible) this.watch(true);
  }

  build() {
    this.stale = false;
    for (const mesh of this.meshes || []) { this.scene.remove(mesh); mesh.material.dispose(); }
    this.meshes = [];
    for (const pane of this.panes)
      for (const { volume, color, opacity = 1 } of pane.surfaces) {
        const geometry = isosurface(volume, this.contour.level);
        const add = (material, renderOrder) => this.meshes.push(Object.assign(new libraries.Mesh(geometry, material), { pane, renderOrder }));
        add(new libraries.MeshStandardMaterial({ color: color, roughness: 0.62, transparent: opacity < 1, opacity, side: libraries.DoubleSide }), 2);
        // the depth of a translucent surface is drawn first, so that only its front is seen
        if (opacity < 1) add(new libraries.MeshBasicMaterial({ colorWrite: false, transparent: true, side: libraries.DoubleSide }), 1);
      }
    this.scene.add(...this.meshes);
    if (!this.radius && this.meshes.length) this.fit();
    this.label();
    this.draw();
  }

  // the camera looks down the z axis, and all surfaces fit into their panes
  fit() {
    for (const { geometry } of this.meshes) {
      if (!geometry.attributes.position.count) continue;
      geometry.computeBoundingBox();
      const { min, max } = geometry.boundingBox;
      this.radius = Math.max(this.radius, ...[min, max].flatMap((corner) => corner.toArray().map(Math.abs)));
    }
    this.radius *= 1.12;
    this.resetView();
  }

  resetView() {
    const distance = 4 * this.radius || 1;
    this.controls.target.set(0, 0, 0);
    this.camera.position.set(0, 0, distance);
    this.camera.up.set(0, 1, 0);
    this.camera.zoom = 1;
    Object.assign(this.camera, { near: 0.01 * distance, far: 3 * distance });
    Object.assign(this.scene.fog, { near: distance - 0.2 * this.radius, far: distance + 2.1 * this.radius });
    this.camera.lookAt(0, 0, 0);
    this.resize();
  }

  turn(angle) {
    const offset = this.camera.position.clone().sub(this.controls.target).applyAxisAngle(this.camera.up, angle);
    this.camera.position.copy(this.controls.target).add(offset);
    this.camera.lookAt(this.controls.target);
    this.draw();
  }

  spin(spinning) {
    this.spinning = spinning;
    if (this.spinButton) this.spinButton.setAttribute("aria-pressed", spinning);
  }

  resize() {
    if (!this.renderer || !this.host.clientWidth) return;
    this.renderer.setSize(this.host.clientWidth, this.host.clientHeight, false);
    this.controls.handleResize();
    if (this.meshes) this.label();
    this.draw();
  }

  // Rectangles [x, y, width, height] of the panes, as large as possible
  rectangles() {
    const { clientWidth: wide, clientHeight: tall } = this.host, count = Math.max(1, this.panes.length);
    let best = [0, 1];
    for (let columns = 1; columns <= count; columns++) {
      const size = Math.min(wide / columns, tall / Math.ceil(count / columns));
      if (size > best[0]) best = [size, columns];
    }
    const columns = best[1], width = wide / columns, height = tall / Math.ceil(count / columns);
    return this.panes.map((_, k) => [(k % columns) * width, Math.floor(k / columns) * height, width, height]);
  }

  draw() {
    if (!this.meshes || !this.host.clientWidth || !this.radius) return;
    this.sky.position.copy(this.camera.up);
    this.sun.position.set(-0.5, 0.7, 1.2).applyQuaternion(this.camera.quaternion);
    this.renderer.setScissorTest(true);
    this.renderer.setScissor(0, 0, this.host.clientWidth, this.host.clientHeight);
    this.renderer.clear();
    this.rectangles().forEach(([x, y, width, full], k) => {
      const height = Math.max(1, full - this.header);
      const aspect = width / height, half = aspect < 1 ? this.radius / aspect : this.radius;
      Object.assign(this.camera, { left: -half * aspect, right: half * aspect, top: half, bottom: -half });
      this.camera.updateProjectionMatrix();
      for (const mesh of this.meshes) mesh.visible = mesh.pane === this.panes[k];
      const bottom = this.host.clientHeight - y - full;
      this.renderer.setViewport(x, bottom, width, height);
      this.renderer.setScissor(x, bottom, width, height);
      this.renderer.render(this.scene, this.camera);
      this.pixel = (2 * half) / height / this.camera.zoom;
    });
    this.drawScale();
  }

  // names of the panes, scale bar and axes
  label() {
    this.scale = element("div", { class: "scale" }, element("span"));
    this.axes = svgElement("svg", { class: "axes", width: 64, height: 64, viewBox: "-32 -32 64 64" });
    this.over.replaceChildren(...this.rectangles().map(([x, y, width, height], k) =>
      element("div", { class: "pane", style: `left:${x}px;top:${y}px;width:${width}px;height:${height}px` }, this.panes[k].label)), this.scale, this.axes);
    if (this.panes.length) this.drawScale();
  }

  drawScale() {
    const known = this.panes.every(({ surfaces }) => surfaces.every(({ volume }) => volume.apix));
    this.scale.hidden = !known || !this.pixel;
    if (!this.scale.hidden) {
      const length = scaleLength(360 * this.pixel);
      this.scale.style.width = `${length / this.pixel}px`;
      this.scale.firstChild.textContent = `${length} Å`;
    }
    const inverse = this.camera.quaternion.clone().invert();
    this.axes.replaceChildren(...["x", "y", "z"].map((name, k) => [name, new libraries.Vector3(...[0, 1, 2].map((at) => +(at === k))).applyQuaternion(inverse)])
      .sort(([, a], [, b]) => a.z - b.z).flatMap(([name, { x, y }]) => [
        svgElement("line", { x2: 20 * x, y2: -20 * y, stroke: "#5a6675", "stroke-width": 1.6 }),
        svgElement("text", { x: Math.hypot(x, y) < 0.3 ? -8 : 27 * x, y: Math.hypot(x, y) < 0.3 ? 13 : 4 - 27 * y, "text-anchor": "middle" }, name),
      ]));
  }

  // buttons that every view has
  buttons() {
    if (!this.renderer) return [];
    this.spinButton = element("button", { "aria-pressed": "false", onclick: () => this.spin(!this.spinning) }, "spin");
    return [this.contour.slider(), this.spinButton,
      element("button", { onclick: () => { this.spin(false); this.resetView(); } }, "reset view"),
      element("button", { onclick: () => this.save() }, "save picture")];
  }

  save() {
    element("a", { download: "volumes.png", href: this.canvas.toDataURL("image/png") }).click();
  }
}

const SVG = "http://www.w3.org/2000/svg";

function svgElement(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
