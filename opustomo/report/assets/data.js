// Data of the page (JSON with base64-encoded typed arrays) and helpers shared by all scripts.
"use strict";

const TYPES = { f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };

function decodeBytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const plain = atob(text), bytes = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) bytes[i] = plain.charCodeAt(i);
  return bytes;
}

function unpack(value) {
  if (value === null || typeof value !== "object") return value;
  if (TYPES[value.dtype] && typeof value.data === "string") {
    const array = new TYPES[value.dtype](decodeBytes(value.data).buffer);
    array.shape = value.shape;
    return array;
  }
  for (const key of Object.keys(value)) value[key] = unpack(value[key]);
  return value;
}

// Bytes of volumes (V, n, n, n), stored as compressed differences from the preceding volume
async function inflateGrids({ data, shape }) {
  const stream = new Blob([decodeBytes(data)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer()), size = shape[1] * shape[2] * shape[3];
  for (let i = size; i < bytes.length; i++) bytes[i] += bytes[i - size];
  return Array.from({ length: shape[0] }, (_, k) => bytes.subarray(k * size, (k + 1) * size));
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);
const whole = (number) => number.toLocaleString("en-GB");
const percent = (part) => (100 * part).toFixed(part < 0.0995 ? 1 : 0) + " %";

function short(number) {
  if (!Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? number.toExponential(2) : String(+number.toPrecision(4));
  return text.replace("-", "−");
}

// Largest round length up to a third of a width, both in Å
function scaleLength(width) {
  const power = 10 ** Math.floor(Math.log10(width / 3));
  return [5, 2, 1].map((digit) => digit * power).find((length) => length <= width / 3);
}

// 0xAABBGGRR, the byte order of canvas memory
const packedColor = (hex) => {
  const value = parseInt(hex.slice(1), 16);
  return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
};

// black or white, whichever has more contrast
function inkOn(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 0.56 ? "#1c2530" : "#fff";
}

const badge = (number, color) => element("span", { class: "badge", style: `background:${color};color:${inkOn(color)}` }, String(number));

// Bar of the numbers of particles per cluster
function clusterStack(members, { codes, labels, colors }) {
  const counts = new Int32Array(labels.length);
  for (const i of members) counts[codes[i]]++;
  return element("div", { class: "stack" }, ...Array.from(counts, (count, k) => (count ? element("div", { style: `background:${colors[k]};flex:${count}`, title: `${labels[k]}: ${whole(count)}` }) : null)));
}

// viridis, perceptually uniform and color-blind safe, without its last yellow, which is invisible on white
const rampColor = (part) => libraries.interpolateViridis(0.9 * part);

function percentiles(values, ...parts) {
  const [low = 0, high = 1] = parts.map((part) => libraries.quantile(values, part));
  return [low, high > low ? high : low + 1];
}

// A function that requests work for the next frame in which an element is in view or nearly so
function whenVisible(node, work) {
  let stale = false, visible = false;
  const run = () => {
    if (!stale || !visible) return;
    stale = false;
    work();
  };
  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; run(); }, { rootMargin: "200px" }).observe(node);
  return () => { stale = true; requestAnimationFrame(run); };
}

// A command with a button that copies it
function commandBlock(command) {
  const button = element("button", { class: "copy", title: "copy the command", onclick: async () => {
    try {
      await navigator.clipboard.writeText(command);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  } }, "copy");
  const code = element("code", {}, command);
  return element("pre", {}, code, button);
}
