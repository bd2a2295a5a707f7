// What the scripts of the report use of their libraries. The bundle defines it as the global `libraries`.
export { axisX, axisY, binX, cell, dot, gridY, line, link, normalizeY, plot, rectY, ruleX, ruleY, text } from "@observablehq/plot";
export { extent, quantile, shuffler } from "d3-array";
export { forceCollide, forceSimulation, forceX, forceY } from "d3-force";
export { polygonContains } from "d3-polygon";
export { quadtree } from "d3-quadtree";
export { randomLcg } from "d3-random";
export { scaleLinear } from "d3-scale";
export { interpolateViridis } from "d3-scale-chromatic";
export { select } from "d3-selection";
export { zoom, zoomIdentity } from "d3-zoom";
export {
  BufferAttribute, BufferGeometry, DirectionalLight, DoubleSide, Fog, HemisphereLight, Mesh, MeshBasicMaterial,
  MeshStandardMaterial, OrthographicCamera, Scene, Vector3, WebGLRenderer,
} from "three";
export { TrackballControls } from "three/addons/controls/TrackballControls.js";
export { MarchingCubes } from "three/addons/objects/MarchingCubes.js";
