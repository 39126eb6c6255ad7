// The page: choose a picture and settings, see the purification, attack, and read what came of it.

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

const page = { parts: null, sample: 0, engine: null, picture: null, attacked: null, shown: "clean", turn: 0, busy: false, stop: false, figures: {} };
const at = (id) => document.getElementById(`live-${id}`);
const nextFrame = () => new Promise((resolve) => setTimeout(resolve));

function readField(field) {
  return Number(at(`${field.group}-${field.name}`).value);
}

const group = (name) => Object.fromEntries(FIELDS.filter((f) => f.group === name).map((f) => [f.name, readField(f)]));

const defenceOf = (kind) => ({ kind, ...(kind === "none" ? {} : group(kind)) });

function seed() {
  const text = at("seed").value.trim();
  if (!/^-?\d+$/.test(text)) throw new Error(`The seed must be a whole number, not "${text}".`);
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

async function useFile(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    at("picture-note").textContent = `This browser cannot read "${file.name}" as a picture; PNG, JPEG, WebP or GIF will do. The picture before it stays.`;
    return;
  }
  const clean = fromBytes(shrink(bitmap), 4);
  const { logits } = await page.engine.ask("look", { image: clean });
  page.sample = null;
  const label = logits.indexOf(Math.max(...logits));
  for (const radio of at("samples").querySelectorAll("input")) radio.checked = false;
  const size = `${bitmap.width} × ${bitmap.height}`;
  const fitted =
    bitmap.width === SIDE && bitmap.height === SIDE
      ? "Your picture is used as it is."
      : `Your picture of ${size} pixels was cut to its middle square and scaled to 32 × 32: the networks know no other size.`;
  const guess = `The classifier takes it for a ${page.parts.classes[label]}; if that is wrong, say what it shows. These networks know ten things only.`;
  choose({ clean, key: `own ${size} ${file.name}`, label }, `${fitted} ${guess}`);
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

// ---- attack ---------------------------------------------------------------------------------------------------------------

// Projected gradient ascent on the loss, averaged over fresh purifications at every step, and then a verdict on noise it never saw.
async function attack(kind) {
  if (page.busy) return;
  let defence, budget, noises;
  try {
    defence = defenceOf(kind);
    if (kind !== "none") gridOf(defence);
    budget = group("budget");
    noises = (purpose) => (copy) => noiseFor(purpose, copy);
    seed();
  } catch (error) {
    at("error").textContent = error.message;
    at("error").scrollIntoView({ block: "center" });
    return;
  }
  begin();
  const { clean, label } = page.picture;
  const random = perturbRandomly(clean, gaussianNoise(`random ${seed()}`, page.picture.key, 0)("direction"), EPS);
  const job = { kind, defence, clean, label, random, budget, image: clean, right: [], done: 0 };
  try {
    await ascend(job, noises("attack "));
    page.stop = false;
    const votes = await judge(job, noises("judge "));
    page.attacked = { image: job.image };
    page.shown = "attacked";
    showVerdict(job, votes);
    at("status").textContent = "";
  } catch (error) {
    at("status").textContent = error instanceof Stopped ? "Stopped before the verdict." : `The attack ended early: ${error.message}`;
  }
  end();
  refresh();
}

function begin() {
  page.busy = true;
  page.stop = false;
  page.turn++;
  page.engine.clear();
  at("result").replaceChildren();
  at("progress").hidden = false;
  at("stop").focus();
  lock(true);
}

function end() {
  page.busy = false;
  at("progress").hidden = true;
  lock(false);
}

function lock(locked) {
  for (const control of page.root.querySelectorAll("input, select, button")) if (control.id !== "live-stop") control.disabled = locked;
}

async function ascend(job, noise) {
  const { kind, defence, clean, label, budget } = job;
  const copies = kind === "none" ? 1 : budget.eot;
  for (let k = 0; k < budget.iterations && !page.stop; k++) {
    const left = Math.ceil(((budget.iterations - k) * page.figures.step) / 1000);
    say(`Step ${k + 1} of ${budget.iterations}${k ? `, about ${left} s left` : ""}`, k / (budget.iterations + 1));
    const began = performance.now();
    const tasks = Array.from({ length: copies }, (_, e) =>
      page.engine.ask("ascend", { image: job.image, label: oneHot(label), defence, noise: noise(k * copies + e) }),
    );
    const found = await Promise.all(tasks);
    const gradient = found.map((one) => one.gradient).reduce((sum, one) => combine(1, sum, 1, one));
    job.right.push(found.reduce((sum, one) => sum + Math.exp(-one.loss), 0) / copies);
    job.image = climb(job.image, clean, gradient, budget.step / 255, EPS);
    job.done = k + 1;
    page.figures.step = performance.now() - began;
    page.figures.stepSays = copies === 1 ? "one gradient" : `${copies} gradients`;
    showAscent(job);
    await nextFrame();
  }
}

function say(text, part) {
  at("bar").value = part;
  at("status").textContent = `${text}.`;
}

function showAscent(job) {
  const pictures = [
    figure(canvas(ofImage(job.clean), "The clean picture"), "clean"),
    figure(canvas(ofDifference(job.image, job.clean), "The change, amplified"), "change × 16"),
    figure(canvas(ofImage(job.image), "The attacked picture"), "attacked"),
  ];
  const now = Math.round(100 * job.right[job.right.length - 1]);
  const name = page.parts.classes[job.label];
  const caption = `probability of “${name}” at each step: ${now} % at the last`;
  const plotted = element("figure", { class: "live-curve" }, curve(job.right, job.budget.iterations), element("figcaption", {}, caption));
  at("result").replaceChildren(element("div", { class: "live-ascent" }, ...pictures, plotted));
}

// What fresh purifications, of noise that the attack has not seen, make of the clean, the randomly changed and the attacked picture.
async function judge(job, noise) {
  const images = { clean: job.clean, random: job.random, attacked: job.image };
  const copies = job.kind === "none" ? 1 : job.budget.votes;
  let done = 0;
  const one = async (image, copy) => {
    const { logits } = await page.engine.ask("purify", { image, defence: job.defence, noise: noise(copy) });
    say(`Fresh purifications: ${++done} of ${3 * copies}`, done / (3 * copies));
    if (page.stop) page.engine.clear();
    return softmax(logits);
  };
  const rows = Object.entries(images).map(async ([name, image]) => [
    name,
    await Promise.all(Array.from({ length: copies }, (_, copy) => one(image, copy))),
  ]);
  return Object.fromEntries(await Promise.all(rows));
}

const topOf = (values) => values.indexOf(Math.max(...values));

function summary(runs, label) {
  const mean = runs[0].map((_, k) => runs.reduce((sum, run) => sum + run[k], 0) / runs.length);
  return { vote: topOf(mean), tops: runs.map(topOf), wrong: runs.filter((run) => topOf(run) !== label).length, n: runs.length };
}

function showVerdict(job, votes) {
  const rows = Object.fromEntries(Object.entries(votes).map(([name, runs]) => [name, summary(runs, job.label)]));
  const names = { clean: "clean", random: "changed at random, as much", attacked: "attacked" };
  const body = Object.entries(rows).map(([name, row]) => {
    const chips = row.tops.map((top) => {
      const right = top === job.label;
      const said = page.parts.classes[top];
      return element("span", { class: `live-chip ${right ? "right" : "wrong"}`, title: said, role: "img", "aria-label": said }, right ? "✓" : "✗");
    });
    return element("tr", {}, element("th", { scope: "row" }, names[name]), element("td", {}, ...chips), element("td", {}, page.parts.classes[row.vote]));
  });
  const head = element("tr", {}, ...["picture", job.kind === "none" ? "answer" : "fresh purifications", "vote"].map((text) => element("th", { scope: "col" }, text)));
  const table = element("table", { class: "live-votes" }, element("thead", {}, head), element("tbody", {}, ...body));
  const { headline, sentence } = verdict(job, rows);
  const words = element("div", { class: "live-verdict", role: "status", tabindex: "-1" }, element("p", { class: "live-headline" }, headline), element("p", {}, sentence));
  at("result").prepend(words);
  at("result").append(table);
  addToTally(job, rows);
  words.focus();
}

// A line about this attack in the list of all, the latest first.
function addToTally(job, { clean, attacked }) {
  const fooled = clean.vote === job.label && attacked.vote !== job.label;
  const name = page.parts.classes[job.label];
  const said = `${fooled ? "fooled" : clean.vote === job.label ? "held" : "wrong before"}: ${page.parts.classes[attacked.vote]}`;
  const cells = [canvas(ofImage(job.image), name), DEFENCES[job.kind].subject, `${attacked.wrong} of ${attacked.n}`, said];
  at("tally").querySelector("tbody").prepend(element("tr", {}, ...cells.map((cell) => element("td", {}, cell))));
  at("tally").hidden = false;
}

function verdict(job, { clean, random, attacked }) {
  const subject = DEFENCES[job.kind].subject;
  const name = (k) => `“${page.parts.classes[k]}”`;
  const steps = `${job.done} step${job.done === 1 ? "" : "s"}`;
  const most = Math.round(255 * job.image.reduce((top, value, i) => Math.max(top, Math.abs(value - job.clean[i])), 0));
  const change = `No pixel changed by more than ${most} of 255 levels.`;
  const several = attacked.n > 1;
  const counted = (row) => `${row.wrong} of ${row.n}`;
  const null_ = several
    ? `${counted(attacked)} fresh purifications of the attacked picture are wrong. After a random change of the same size ${counted(random)} are, of the clean picture ${counted(clean)}.`
    : `A random change of the same size ${random.wrong ? "fools it too" : "leaves it right"}.`;
  if (clean.vote !== job.label) {
    return {
      headline: `${subject} was wrong before any attack.`,
      sentence: `It takes the clean picture for ${name(clean.vote)}. Choose another picture, or say that this is what it shows.`,
    };
  }
  if (attacked.vote !== job.label) {
    return {
      headline: `${subject} is fooled: it now says ${name(attacked.vote)}.`,
      sentence: `${steps} along the exact gradient were enough. ${change} ${null_}`,
    };
  }
  return {
    headline: `${subject} held this time: it still says ${name(attacked.vote)}.`,
    sentence: `${change} ${null_} That is one picture and ${steps}: give the attack more steps, or more purifications for each of them.`,
  };
}

// ---- the address remembers the picture and the settings, so that a link shows the same ------------------------------------------------

const ADDRESSED = FIELDS.filter((field) => field.group !== "budget");

function writeAddress() {
  const said = new URLSearchParams();
  if (page.sample) said.set("picture", page.sample + 1);
  if (seed()) said.set("seed", seed());
  for (const field of ADDRESSED) {
    const value = readField(field);
    if (value !== page.parts[field.group][field.name]) said.set(`${field.group}.${field.name}`, value);
  }
  const { pathname, search } = window.location;
  history.replaceState(null, "", `${pathname}${search}${said.size ? `#${said}` : ""}`);
}

// What is not a number, or no picture of ours, is passed over; sliders keep to their range.
function readAddress() {
  const said = new URLSearchParams(window.location.hash.slice(1));
  const number = (name) => (said.has(name) && Number.isFinite(Number(said.get(name))) ? Number(said.get(name)) : undefined);
  page.sample = Math.min(page.parts.samples.length, Math.max(1, Math.floor(number("picture") || 1))) - 1;
  at("seed").value = Math.floor(number("seed") || 0);
  const given = { method: {}, uniform: {} };
  for (const { group: owner, name } of ADDRESSED) given[owner][name] = number(`${owner}.${name}`);
  setFields(given);
}

// ---- start ----------------------------------------------------------------------------------------------------------------

function setFields(values) {
  for (const field of FIELDS) {
    const given = (values[field.group] || {})[field.name];
    if (given !== undefined) at(`${field.group}-${field.name}`).value = given;
    showField(field);
  }
}

function showField(field) {
  at(`${field.group}-${field.name}-value`).textContent = at(`${field.group}-${field.name}`).value;
}

function build() {
  page.root.innerHTML = TEMPLATE;
  at("label").append(...page.parts.classes.map((name, k) => element("option", { value: k }, name)));
  setFields({ ...page.parts, budget: Object.fromEntries(FIELDS.filter((f) => f.group === "budget").map((f) => [f.name, f.value])) });
  for (const field of FIELDS) {
    at(`${field.group}-${field.name}`).addEventListener("input", () => {
      showField(field);
      if (field.group !== "budget") refreshSoon();
    });
  }
  at("seed").addEventListener("input", refreshSoon);
  at("reset").addEventListener("click", () => {
    setFields(page.parts);
    at("seed").value = 0;
    refresh();
  });
  at("label").addEventListener("change", () => {
    page.picture.label = Number(at("label").value);
    refresh();
  });
  at("file").addEventListener("change", () => at("file").files.length && useFile(at("file").files[0]));
  at("stop").addEventListener("click", () => {
    page.stop = true;
    at("status").textContent = "Stopping after this step.";
  });
  for (const button of page.root.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      page.shown = button.dataset.show;
      refresh();
    });
  }
  showSamples();
}

function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: address });
    script.onload = resolve;
    script.onerror = () => reject(new Error("the networks could not be loaded"));
    document.head.append(script);
  });
}

// Everything from here on may fail without harm: the still picture stays, with a sentence that says why.
async function main() {
  page.root = document.getElementById("hetpure-live");
  const still = document.getElementById("hetpure-still");
  const tell = (text) => (document.getElementById("hetpure-live-status").textContent = text);
  try {
    if (lacking()) throw new Error(`this browser has no ${lacking()}`);
    const began = performance.now();
    tell("Loading the networks, about 8 MB …");
    await loadScript(new URL("packed.js", HERE).href);
    page.parts = window.hetpureLive;
    if (page.parts.unavailable) throw new Error(page.parts.unavailable);
    tell("Starting the networks …");
    const size = Math.min(2, navigator.hardwareConcurrency || 1);
    page.engine = await Engine.load(page.parts, size).catch(() => Engine.load(page.parts, 1)); // short of memory, perhaps
    page.figures.load = performance.now() - began;
    build();
    still.hidden = true;
    tell("");
    readAddress();
    at("samples").querySelectorAll("input")[page.sample].click();
    return page.engine;
  } catch (error) {
    tell(`This page stays a still picture: ${error.message}.`);
    throw error;
  }
}

// For tests, and for whoever wants to ask the networks something else from the console.
window.hetpure = main();
window.hetpure.catch(() => {});
