// Pictures of 32 x 32 pixels on canvases, and bars.

const SIDE = 32;
const MAGMA = ["#000004", "#180f3e", "#451077", "#721f81", "#9f2f7f", "#cd4071", "#f1605d", "#fd9567", "#fec98d", "#fcfdbf"].map((hex) =>
  [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)),
);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A canvas whose pixel i has the colour `colourOf(i)`, three numbers from 0 to 255.
function canvas(colourOf, description) {
  const made = element("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": description });
  paint(made, colourOf);
  return made;
}

function paint(target, colourOf) {
  const context = target.getContext("2d");
  const data = context.createImageData(SIDE, SIDE);
  for (let i = 0; i < PIXELS; i++) {
    data.data.set(colourOf(i), 4 * i);
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

const byte = (value) => Math.round(255 * Math.min(1, Math.max(0, value)));

// Colours of an image in [0, 1], of a state in [-1, 1], of one map, of an image under its mask, of a perturbation.
const ofImage = (x) => (i) => [x[i], x[i + PIXELS], x[i + 2 * PIXELS]].map(byte);
const ofState = (x) => (i) => [x[i], x[i + PIXELS], x[i + 2 * PIXELS]].map((value) => byte((value + 1) / 2));
const ofMap = (maps, m) => (i) => magma(maps[m * PIXELS + i]);
const ofMask = (x, mask) => (i) => ofImage(x)(i).map((value) => (mask[i] ? value : Math.round(0.22 * value)));
const ofDifference = (x, clean) => (i) => [0, 1, 2].map((c) => byte(0.5 + (x[i + c * PIXELS] - clean[i + c * PIXELS]) / (2 * EPS)));

function magma(value) {
  const at = Math.min(1, Math.max(0, value)) * (MAGMA.length - 1);
  const low = Math.min(Math.floor(at), MAGMA.length - 2);
  return MAGMA[low].map((c, k) => Math.round(c + (at - low) * (MAGMA[low + 1][k] - c)));
}

function figure(picture, caption) {
  return element("figure", { class: "live-figure" }, picture, element("figcaption", {}, caption));
}

// A bar per class, the right one marked.
function bars(probabilities, classes, label) {
  const top = probabilities.indexOf(Math.max(...probabilities));
  const rows = classes.map((name, k) => {
    const percent = `${Math.round(100 * probabilities[k])} %`;
    const fill = element("span", { class: "live-fill" });
    fill.style.width = `${100 * probabilities[k]}%`;
    const kind = `${k === label ? "right" : ""} ${k === top ? "top" : ""} ${probabilities[k] < 0.01 ? "tiny" : ""}`;
    return element("li", { class: kind }, element("span", { class: "live-name" }, name), element("span", { class: "live-bar" }, fill), percent);
  });
  return element("ul", { class: "live-bars" }, ...rows);
}

// The probability of the right class over the steps of an attack.
function curve(values, length) {
  const [width, height, left, pad] = [300, 96, 40, 8];
  const x = (k) => left + ((width - left - pad) * k) / Math.max(1, length - 1);
  const y = (p) => pad + (height - 2 * pad) * (1 - p);
  const points = values.map((p, k) => `${x(k).toFixed(1)},${y(p).toFixed(1)}`).join(" ");
  const last = values.length - 1;
  const line = (p) => `<line x1="${left}" x2="${width - pad}" y1="${y(p)}" y2="${y(p)}"/>
    <text x="${left - 6}" y="${y(p) + 4}" text-anchor="end">${100 * p} %</text>`;
  const box = document.createElement("div");
  box.innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Probability of the right class at each step">
    ${[0, 0.5, 1].map(line).join("")}<polyline points="${points}"/><circle cx="${x(last)}" cy="${y(values[last])}" r="3.5"/></svg>`;
  return box.firstChild;
}
