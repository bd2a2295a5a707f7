// Data of the page (JSON with base64-encoded typed arrays) and helpers shared by all scripts.
"use strict";

const TYPES = { f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };

function decodeArray(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new TYPES[packed.dtype](bytes.buffer);
}

function unpack(value) {
  if (value === null || typeof value !== "object") return value;
  if (typeof value.dtype === "string" && typeof value.data === "string") {
    const array = decodeArray(value);
    array.shape = value.shape;
    return array;
  }
  for (const key of Object.keys(value)) value[key] = unpack(value[key]);
  return value;
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

const whole = (number) => number.toLocaleString("en-GB");
const percent = (part) => (100 * part).toFixed(part < 0.0995 ? 1 : 0) + " %";

function short(number) {
  if (!Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? number.toExponential(2) : String(+number.toPrecision(4));
  return text.replace("-", "−");
}

// 0xAABBGGRR, the byte order of canvas memory
const packedColour = (hex) => {
  const value = parseInt(hex.slice(1), 16);
  return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
};

// black or white, whichever has more contrast
function inkOn(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 0.56 ? "#1c2530" : "#fff";
}

// viridis, perceptually uniform and color-blind safe, without its last yellow, which is invisible on white
const RAMP = ["#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21908d", "#22a884", "#42be71", "#7ad151", "#bddf26"];

function rampColour(part) {
  const at = Math.min(Math.max(part, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  const mix = (shift) => {
    const a = (parseInt(RAMP[low].slice(1), 16) >> shift) & 255;
    const b = (parseInt(RAMP[low + 1].slice(1), 16) >> shift) & 255;
    return Math.round(a + (b - a) * (at - low));
  };
  return (0xff000000 | (mix(0) << 16) | (mix(8) << 8) | mix(16)) >>> 0;
}

function percentiles(values, low, high) {
  const finite = Float32Array.from(values.filter((value) => Number.isFinite(value))).sort();
  if (!finite.length) return [0, 1];
  const at = (part) => finite[Math.min(finite.length - 1, Math.round(part * (finite.length - 1)))];
  const ends = [at(low), at(high)];
  if (ends[1] <= ends[0]) ends[1] = ends[0] + 1;
  return ends;
}
