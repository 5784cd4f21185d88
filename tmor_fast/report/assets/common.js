"use strict";
// The whole of the data; every string in it is shown through textContent or fillText, never as HTML.
const DATA = JSON.parse(document.getElementById("report-data").textContent);
const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");

// Seven colours that the colour-blind tell apart (after Okabe and Ito), times twelve shapes: 84 different marks.
const COLOURS = {
  light: ["#0072b2", "#d55e00", "#008a64", "#b0528a", "#c78500", "#3d9fd6", "#8f8300"],
  dark: ["#4aa8e0", "#ff8b3d", "#2fc79b", "#e39ac6", "#f5b82e", "#8fd0f5", "#e8dc4a"],
};
const SHAPES = [
  "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z",
  "M-.85-.85H.85V.85H-.85Z",
  "M0-1.1L1 .8H-1Z",
  "M0-1.2L1.1 0L0 1.2L-1.1 0Z",
  "M-.35-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
  "M0 1.1L-1-.8H1Z",
  "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0ZM.55 0A.55 .55 0 1 0-.55 0A.55 .55 0 1 0 .55 0Z",
  "M-.9-.9H.9V.9H-.9ZM-.45-.45V.45H.45V-.45Z",
  "M-1-.6L-.6-1L0-.4L.6-1L1-.6L.4 0L1 .6L.6 1L0 .4L-.6 1L-1 .6L-.4 0Z",
  "M-1.2-.4H1.2V.4H-1.2Z",
  "M-.4-1.2H.4V1.2H-.4Z",
  "M0-1.2L.35-.4L1.2-.35L.5 .2L.75 1.1L0 .6L-.75 1.1L-.5 .2L-1.2-.35L-.35-.4Z",
];
const PATHS = SHAPES.map((shape) => new Path2D(shape));

function colour(index) {
  const palette = DARK.matches ? COLOURS.dark : COLOURS.light;
  return palette[index % palette.length];
}

// Noise (-1) is a grey dot, what was not clustered (-2) a grey ring.
function shape(index) {
  if (index < 0) return index === -2 ? 6 : 0;
  return Math.floor(index / COLOURS.light.length) % SHAPES.length;
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function glyph(index) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  for (const [name, value] of [["viewBox", "-1.5 -1.5 3 3"], ["width", "14"], ["height", "14"], ["aria-hidden", "true"]])
    drawing.setAttribute(name, value);
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", SHAPES[shape(index)]);
  path.setAttribute("fill-rule", "evenodd");
  path.setAttribute("fill", index < 0 ? ink("--noise") : colour(index));
  drawing.append(path);
  return drawing;
}

// A canvas of that size in CSS pixels, sharp on dense screens; returns its cleared context.
function sized(canvas, width, height) {
  const dense = Math.min(window.devicePixelRatio || 1, 3);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  const context = canvas.getContext("2d");
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const redraws = [];
function redrawn(draw) {
  redraws.push(draw);
  draw();
}
DARK.addEventListener("change", () => redraws.forEach((draw) => draw()));
let width = document.documentElement.clientWidth;
window.addEventListener("resize", () => {
  // Phones fire this when their bars hide, with the same width.
  if (document.documentElement.clientWidth === width) return;
  width = document.documentElement.clientWidth;
  redraws.forEach((draw) => draw());
});
