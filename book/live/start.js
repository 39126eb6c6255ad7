// The address, the controls and the first picture.

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
  try {
    history.replaceState(null, "", `${pathname}${search}${said.size ? `#${said}` : ""}`);
  } catch {
    // some browsers refuse it after a hundred times; the page works without
  }
}

// What is not a number, or no picture of ours, is passed over; sliders keep to their range.
function readAddress() {
  const said = new URLSearchParams(window.location.hash.slice(1));
  const number = (name) => (said.has(name) && Number.isFinite(Number(said.get(name))) ? Number(said.get(name)) : undefined);
  page.sample = Math.min(page.parts.samples.length, Math.max(1, Math.floor(number("picture") || 1))) - 1;
  const seedSaid = Math.floor(number("seed") || 0);
  at("seed").value = Math.abs(seedSaid) < 1e15 ? seedSaid : 0;
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
    tell(`This page stays a still picture: ${error.message.replace(/\.+$/, "")}.`);
    throw error;
  }
}

// For tests, and for whoever wants to ask the networks something else from the console.
window.hetpure = main();
window.hetpure.catch(() => {});
