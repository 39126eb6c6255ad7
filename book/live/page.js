// The page: choose a picture and settings, and see the purification. Attacks are in attack.js, controls in start.js.

const HERE = document.currentScript.src;
const DEFENCES = {
  none: { title: "No defence", attack: "Attack the classifier", subject: "The classifier alone" },
  uniform: { title: "Uniform noise", attack: "Attack uniform noise", subject: "Uniform noise" },
  method: { title: "The method", attack: "Attack the method", subject: "The method" },
};
const FIELDS = [
  { name: "t_l", group: "method", label: "strong noise <i>t<sub>l</sub></i>", min: 0.01, max: 1, step: 0.01 },
  { name: "t_s", group: "method", label: "weak noise <i>t<sub>s</sub></i>", min: 0.01, max: 1, step: 0.01 },
  { name: "tau", group: "method", label: "mask threshold <i>τ</i>", min: 0, max: 1, step: 0.01 },
  { name: "U", group: "method", label: "resampling <i>U</i>", min: 1, max: 100, step: 1 },
  { name: "steps", group: "method", label: "steps", min: 1, max: 40, step: 1 },
  { name: "t", group: "uniform", label: "noise <i>t</i>", min: 0.01, max: 1, step: 0.01 },
  { name: "steps", group: "uniform", label: "steps", min: 1, max: 40, step: 1 },
  { name: "iterations", group: "budget", label: "steps of ascent", min: 1, max: 100, step: 1, value: 10 },
  { name: "step", group: "budget", label: "step size in 1/255", min: 0.5, max: 8, step: 0.5, value: 2 },
  { name: "eot", group: "budget", label: "purifications per step", min: 1, max: 16, step: 1, value: 2 },
  { name: "votes", group: "budget", label: "fresh purifications afterwards", min: 1, max: 32, step: 1, value: 8 },
];

const fieldId = ({ group, name }) => `live-${group}-${name}`;

function fieldHtml(field) {
  const id = fieldId(field);
  return `<div class="live-field"><label for="${id}">${field.label}</label><output for="${id}" id="${id}-value"></output>
    <input type="range" id="${id}" min="${field.min}" max="${field.max}" step="${field.step}"></div>`;
}

const groupHtml = (group, legend) =>
  `<fieldset class="live-group live-${group}"><legend>${legend}</legend>${FIELDS.filter((f) => f.group === group).map(fieldHtml).join("")}</fieldset>`;

const TOGGLE = `<div class="live-toggle" role="group" aria-label="Which picture goes in" hidden><span>Picture that goes in:</span>
    <button type="button" class="live-button" data-show="clean">clean</button>
    <button type="button" class="live-button" data-show="attacked">attacked</button></div>`;

const TEMPLATE = `
<section aria-labelledby="live-h1"><h2 id="live-h1">Choose a picture</h2>
  <fieldset class="live-samples" id="live-samples"><legend class="live-hidden">Sample pictures</legend></fieldset>
  <div class="live-row"><label class="live-button live-upload">A picture of your own<input type="file" id="live-file" accept="image/*"></label>
    <span class="live-inline"><label for="live-label">It shows a</label> <select id="live-label"></select></span></div>
  <p class="live-note" id="live-picture-note" role="status"></p></section>
<section aria-labelledby="live-h2"><h2 id="live-h2">See what happens to it</h2>
  <details class="live-settings"><summary>Settings of both defences</summary>
    <p class="live-note">Noise levels are fractions of the diffusion's whole time of 1000. Steps are shared out between the method's two stages.</p><div class="live-groups">
    ${groupHtml("method", "The method")}
    <div>${groupHtml("uniform", "Uniform noise")}<div class="live-field live-seed"><label for="live-seed">seed of the noise</label>
      <input type="number" id="live-seed" value="0" step="1"></div>
    <button type="button" class="live-button" id="live-reset">Back to the book's settings</button></div></div></details>
  <p class="live-error" id="live-error" role="alert"></p>
  ${TOGGLE}
  <div class="live-where" id="live-where"></div>
  <p class="live-note">The maps show where four blocks of the classifier look. The method puts strong noise where one of them exceeds τ: the
    lit part of the mask. Both defences start from the same noise.</p>
  <div id="live-strips"></div></section>
<section aria-labelledby="live-h3"><h2 id="live-h3">Attack it</h2>
  <p>An attack may change every pixel by at most 8 of 255 levels. It climbs the loss along the exact gradient, through every step of the
    defence and every call of the denoiser. Attack the classifier first, and see whether the defences repair what you did. Then attack a
    defence itself.</p>
  ${TOGGLE}
  <p id="live-summary" role="status"></p>
  <div class="live-cards" id="live-cards"></div>
  <details class="live-settings"><summary>Budget of the attack</summary><div class="live-groups">${groupHtml("budget", "Projected gradient ascent")}</div></details>
  <div class="live-progress" id="live-progress" hidden><progress id="live-bar" max="1" value="0" aria-label="Progress of the attack"></progress>
    <button type="button" class="live-button" id="live-stop">Stop</button></div>
  <p class="live-note" id="live-status" role="status"></p>
  <div id="live-result"></div>
  <div id="live-tally" hidden><h3>Your attacks so far</h3><table class="live-votes"><thead><tr><th scope="col">picture</th>
    <th scope="col">attacked</th><th scope="col">wrong afterwards</th><th scope="col">outcome</th></tr></thead><tbody></tbody></table></div></section>
<section aria-labelledby="live-h4"><h2 id="live-h4">Measured just now, in your browser</h2><dl class="live-figures" id="live-figures"></dl></section>`;

// ---- state ----------------------------------------------------------------------------------------------------------------

const page = { parts: null, sample: 0, engine: null, picture: null, attacked: null, shown: "clean", turn: 0, files: 0, busy: false, stop: false, figures: {} };
const at = (id) => document.getElementById(`live-${id}`);
const nextFrame = () => new Promise((resolve) => setTimeout(resolve));

function readField(field) {
  return Number(at(`${field.group}-${field.name}`).value);
}

const group = (name) => Object.fromEntries(FIELDS.filter((f) => f.group === name).map((f) => [f.name, readField(f)]));

const defenceOf = (kind) => ({ kind, ...(kind === "none" ? {} : group(kind)) });

function seed() {
  const text = at("seed").value.trim();
  if (!/^-?\d{1,15}$/.test(text)) throw new Error(`The seed must be a whole number of at most 15 digits, not ${text ? `"${text}"` : "nothing"}.`);
  return Number(text);
}

// The noise of one purification; both defences get the same, so that they differ in nothing else.
const noiseFor = (purpose, copy) => ({ key: [`${purpose}${seed()}`, page.picture.key, copy] });

const currentImage = () => (page.shown === "attacked" ? page.attacked.image : page.picture.clean);

function oneHot(label) {
  return Float32Array.from(page.parts.classes, (_, k) => (k === label ? 1 : 0));
}

// ---- pictures -------------------------------------------------------------------------------------------------------------

function fromBytes(bytes, channels) {
  const image = new Float32Array(CHANNELS * PIXELS);
  for (let i = 0; i < PIXELS; i++) for (let c = 0; c < CHANNELS; c++) image[c * PIXELS + i] = bytes[channels * i + c] / 255;
  return image;
}

function choose(picture, note) {
  page.picture = picture;
  page.attacked = null;
  page.shown = "clean";
  page.files++; // one that is still being read comes too late
  at("label").value = String(picture.label);
  at("picture-note").textContent = note;
  at("result").replaceChildren();
  at("status").textContent = "";
  refresh();
}

function showSamples() {
  page.parts.samples.forEach((sample, index) => {
    const bytes = Uint8Array.from(atob(sample.pixels), (c) => c.charCodeAt(0));
    const picture = { clean: fromBytes(bytes, 3), key: sample.id, label: sample.label };
    const name = page.parts.classes[sample.label];
    const radio = element("input", { type: "radio", name: "live-sample", value: index, "aria-label": `picture ${index + 1}: ${name}` });
    radio.addEventListener("change", () => {
      page.sample = index;
      choose(picture, "");
    });
    at("samples").append(element("label", { title: name }, radio, canvas(ofImage(picture.clean), name)));
  });
}

// A picture of the reader's own, unless she chooses another one, or attacks, before it is read.
async function useFile(file) {
  const turn = ++page.files;
  let read;
  try {
    read = await readPicture(file);
  } catch {
    read = null;
  }
  at("file").value = ""; // so that the same file can be chosen again
  if (turn !== page.files) return;
  if (page.busy) {
    at("picture-note").textContent = `An attack began before "${file.name}" was read: choose it again afterwards.`;
  } else if (read) {
    page.sample = null;
    for (const radio of at("samples").querySelectorAll("input")) radio.checked = false;
    choose(...describe(file, read));
  } else {
    at("picture-note").textContent = `This browser cannot read "${file.name}" as a picture; PNG, JPEG, WebP or GIF will do. The picture before it stays.`;
  }
}

async function readPicture(file) {
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const clean = fromBytes(shrink(bitmap), 4);
  bitmap.close();
  const { logits } = await page.engine.ask("look", { image: clean });
  return { width, height, clean, label: logits.indexOf(Math.max(...logits)) };
}

// The picture as the page keeps it, and what it says about it.
function describe(file, { width, height, clean, label }) {
  const size = `${width} × ${height}`;
  const fitted =
    width === SIDE && height === SIDE
      ? "Your picture is used as it is."
      : `Your picture of ${size} pixels was cut to its middle square and scaled to 32 × 32: the networks know no other size.`;
  const guess = `The classifier takes it for a ${page.parts.classes[label]}; if that is wrong, say what it shows. These networks know ten things only.`;
  return [{ clean, key: `own ${size} ${file.name}`, label }, `${fitted} ${guess}`];
}

// The middle square at 32 x 32, on white; halved repeatedly first, so that no pixel is skipped.
function shrink(bitmap) {
  const square = Math.min(bitmap.width, bitmap.height);
  let size = square;
  let now = drawn(bitmap, (bitmap.width - square) / 2, (bitmap.height - square) / 2, square, Math.min(square, 2048));
  for (size = now.width; size >= 4 * SIDE; size = now.width) now = drawn(now, 0, 0, size, size >> 1);
  now = drawn(now, 0, 0, size, SIDE);
  return now.getContext("2d").getImageData(0, 0, SIDE, SIDE).data;
}

function drawn(source, left, top, size, newSize) {
  const made = element("canvas", { width: newSize, height: newSize });
  const context = made.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, newSize, newSize);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, left, top, size, size, 0, 0, newSize, newSize);
  return made;
}

// ---- purification ---------------------------------------------------------------------------------------------------------

let timer = 0;
function refreshSoon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, 250);
}

// Purify the shown picture with both defences, unless the settings make no sense: then say why, and go on.
async function refresh() {
  const turn = ++page.turn;
  showToggle();
  try {
    const defences = { uniform: defenceOf("uniform"), method: defenceOf("method") };
    for (const defence of Object.values(defences)) gridOf(defence);
    const noise = noiseFor("", 0);
    writeAddress();
    at("error").textContent = "";
    document.body.classList.add("live-working");
    const image = currentImage();
    const began = performance.now();
    const [look, uniform, method] = await Promise.all([
      page.engine.ask("look", { image }),
      page.engine.ask("purify", { image, defence: defences.uniform, noise }),
      page.engine.ask("purify", { image, defence: defences.method, noise }),
    ]);
    if (turn !== page.turn) return;
    if (!page.figures.first) page.figures.first = performance.now() - began;
    page.figures.purification = method.ms;
    page.figures.calls = calls(defences.method);
    showWhere(image, look.maps, method.mask);
    showStrips({ uniform, method }, defences);
    showCards(image, { none: look, uniform, method });
    showFigures();
  } catch (error) {
    if (turn === page.turn && !(error instanceof Stopped)) at("error").textContent = error.message;
  } finally {
    if (turn === page.turn) document.body.classList.remove("live-working");
  }
}

function showToggle() {
  for (const toggle of page.root.querySelectorAll(".live-toggle")) toggle.hidden = !page.attacked;
  for (const button of page.root.querySelectorAll("[data-show]")) button.setAttribute("aria-pressed", String(page.shown === button.dataset.show));
}

function showWhere(image, maps, mask) {
  const blocks = maps.length / PIXELS;
  const share = Math.round((100 * mask.reduce((a, b) => a + b, 0)) / PIXELS);
  const pictures = [figure(canvas(ofImage(image), "The picture that goes in"), `${page.shown} picture`)];
  for (let m = 0; m < blocks; m++) pictures.push(figure(canvas(ofMap(maps, m), `Attention map of block ${m + 1}`), `map ${m + 1}`));
  pictures.push(figure(canvas(ofMask(image, mask), `Mask: ${share} % of the pixels`), `mask, ${share} %`));
  at("where").replaceChildren(...pictures);
}

function showStrips(results, defences) {
  const strips = Object.entries(results).map(([kind, { states }]) => {
    const told = `${calls(defences[kind])} calls of the denoiser`;
    const pictures = states.map(({ time, x }, i) => {
      const level = (time / T).toFixed(time % 10 ? 3 : 2);
      const last = i === states.length - 1;
      return figure(canvas(ofState(x), `${DEFENCES[kind].title} at t = ${level}`), last ? "purified" : i ? level : `t = ${level}`);
    });
    const title = element("h3", {}, DEFENCES[kind].title, element("small", {}, told));
    return element("div", { class: `live-strip live-${kind}` }, title, element("div", { class: "live-states" }, ...pictures));
  });
  at("strips").replaceChildren(...strips);
}

function showCards(image, results) {
  const label = page.picture.label;
  const cards = Object.entries(results).map(([kind, { logits, purified }]) => {
    const probabilities = softmax(logits);
    const top = topOf(probabilities);
    const answer = `${top === label ? "✓" : "✗"} ${page.parts.classes[top]}`;
    const button = element("button", { type: "button", class: "live-button live-attack" }, DEFENCES[kind].attack);
    button.addEventListener("click", () => attack(kind));
    button.disabled = page.busy;
    const seen = canvas(ofImage(purified || image), `What the classifier sees: ${DEFENCES[kind].title}`);
    return element(
      "article",
      { class: `live-card live-${kind}` },
      element("h3", {}, DEFENCES[kind].title),
      seen,
      element("p", { class: `live-answer ${top === label ? "right" : "wrong"}` }, answer),
      bars(probabilities, page.parts.classes, label),
      button,
    );
  });
  at("cards").replaceChildren(...cards);
  const said = Object.entries(results).map(([kind, { logits }]) => {
    const top = topOf(Array.from(logits));
    return `${kind === "none" ? "the classifier alone" : DEFENCES[kind].subject.toLowerCase()} says ${page.parts.classes[top]} (${top === label ? "right" : "wrong"})`;
  });
  at("summary").textContent = `On the ${page.shown} picture, ${said.slice(0, -1).join(", ")}, and ${said[said.length - 1]}.`;
}

function showFigures() {
  const { figures, parts } = page;
  const bytes = Object.values(parts.packs).reduce((sum, pack) => sum + pack.gzip, 0);
  const seconds = (ms) => `${(ms / 1000).toFixed(ms < 1000 ? 2 : 1)} s`;
  const rows = [
    ["networks and runtime", `${(bytes / 1e6).toFixed(1)} MB compressed (${parts.runtime})`],
    ["loading them", seconds(figures.load)],
    ["first look, both defences", seconds(figures.first)],
    ["one purification by the method", `${seconds(figures.purification)}, ${figures.calls} calls of the denoiser`],
    ["workers", String(page.engine.workers.length)],
  ];
  if (figures.step) rows.push(["one step of the last attack", `${seconds(figures.step)} (${figures.stepSays})`]);
  at("figures").replaceChildren(...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}
