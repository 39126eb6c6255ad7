// What the pages do beyond reading: specs are copied, what is long is clipped, long tables are filtered, links
// previewed, and a search quotes what it found in files too.
// Everything works without this script; it only adds. It asks no other host, and needs no library.
"use strict";

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
};

const ROOT = document.documentElement.dataset.content_root || "./";

// A script of the build, loaded when it is needed: from files too, where nothing may be fetched.
const load = (name) =>
  new Promise((done, failed) => {
    document.head.append(make("script", { src: `${ROOT}_static/${name}`, onload: done, onerror: failed }));
  });

// ---- a spec is copied by a click or by Enter --------------------------------------------------

function copySpecs() {
  const said = make("div", { class: "copied", role: "status", "aria-live": "polite" });
  document.body.append(said);
  const copy = async (element) => {
    const text = element.title || element.dataset.spec;
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = `copied: ${text}`;
    } catch {
      said.textContent = text; // without the right to copy, at least shown
    }
    said.classList.add("shown");
    setTimeout(() => said.classList.remove("shown"), 2500);
  };
  for (const element of document.querySelectorAll("abbr.spec")) {
    element.setAttribute("tabindex", "0");
    element.setAttribute("role", "button");
    element.addEventListener("click", () => copy(element));
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        copy(element);
      }
    });
  }
}

// ---- long code and long tables: clipped, never taken out ---------------------------------------

// All stays in the page: the browser's own search, a link's target and the tab key scroll to it
// inside its box, and a box that is scrolled opens. In print nothing is clipped.
const LINES = 16; // code of more lines than this is clipped
const KEPT = "hetpure-whole"; // whether this reader wants everything in full
const clips = [];

function clip(box, what) {
  let open = false;
  box.id ||= `clipped-${clips.length + 1}`;
  const button = make("button", { type: "button", class: "unfold", "aria-controls": box.id });
  const set = (wanted) => {
    open = wanted;
    box.classList.toggle("clipped", !open);
    if (!open) box.scrollTop = 0;
    button.setAttribute("aria-expanded", open);
    button.textContent = open ? "show less" : `show all ${what}`;
  };
  button.addEventListener("click", () => {
    set(!open);
    if (!open) button.scrollIntoView({ block: "nearest" });
  });
  box.addEventListener("scroll", () => {
    const sought = box.scrollTop;
    if (open || sought <= 4) return;
    set(true);
    scrollBy(0, sought); // what was sought stays where it was shown
  });
  set(false);
  (box.closest("[class*='highlight-']") || box).after(button);
  clips.push({ box, set });
  return set;
}

function clipCode() {
  for (const pre of document.querySelectorAll(":is(.cell_input, .cell_output) .highlight pre")) {
    const lines = pre.textContent.trimEnd().split("\n").length;
    if (lines > LINES && !pre.closest("details")) clip(pre, `${lines} lines`);
  }
}

function clipTables() {
  for (const box of document.querySelectorAll(".cell_output .table-box, .table-box:has(table.long)")) {
    const rows = [...box.querySelectorAll("tbody tr")];
    const most = 1.25 * parseFloat(getComputedStyle(box).getPropertyValue("--clip"));
    const folds = box.offsetHeight > most * parseFloat(getComputedStyle(document.documentElement).fontSize);
    const set = folds ? clip(box, `${rows.length} rows`) : () => {};
    if (box.querySelector("table.long") && rows.length > FILTERED) filter(box, rows, set);
  }
}

const FILTERED = 12; // rows of a table from which on it has a filter

function filter(box, rows, open) {
  const count = make("span", { class: "filter-count", role: "status" });
  const input = make("input", { type: "search", placeholder: "filter rows", "aria-label": "filter the rows of this table" });
  box.before(make("div", { class: "filter" }, input, count));
  const update = () => {
    const found = matching(rows, input.value);
    count.textContent = found === rows.length ? `${found} rows` : `${found} of ${rows.length} rows`;
  };
  input.addEventListener("input", () => (update(), open(Boolean(input.value.trim()))));
  update();
  window.addEventListener("beforeprint", () => rows.forEach((row) => (row.hidden = false)));
  window.addEventListener("afterprint", update);
}

// Shows the rows that hold every word, in their text or in a spec behind a name; how many.
function matching(rows, words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const titles = [...row.querySelectorAll("[title]")].map((e) => e.title);
    const text = [row.textContent, ...titles].join(" ").toLowerCase();
    row.hidden = !wanted.every((word) => text.includes(word));
  }
  return rows.filter((row) => !row.hidden).length;
}

// One field over all tables of a page; an address that ends in ?find=words fills it.
function findRows() {
  const input = document.querySelector("input#find");
  if (!input) return;
  input.closest(".find").classList.add("ready");
  const rows = [...document.querySelectorAll("table.long tbody tr")];
  const find = () => {
    const words = input.value.trim();
    const found = matching(rows, words);
    document.getElementById("found").textContent = words ? `${found} of ${rows.length}` : "";
    for (const { box, set } of clips) if (box.querySelector("table.long")) set(Boolean(words));
  };
  input.addEventListener("input", find);
  input.value = new URLSearchParams(location.search).get("find") ?? "";
  if (input.value) find();
}

// Beside the theme's buttons: everything in full, on this page and on the next.
function wholeButton() {
  if (!clips.length) return;
  const said = "Show all code and all rows in full";
  const button = make("button", { type: "button", class: "btn btn-sm whole", title: said, "aria-label": said });
  const set = (whole) => {
    button.setAttribute("aria-pressed", whole);
    for (const each of clips) each.set(whole);
  };
  button.append(make("i", { class: "fa-solid fa-up-down" }));
  button.addEventListener("click", () => {
    const whole = button.getAttribute("aria-pressed") !== "true";
    set(whole);
    try {
      localStorage.setItem(KEPT, whole);
    } catch {} // a browser that keeps nothing
  });
  let kept = false;
  try {
    kept = localStorage.getItem(KEPT) === "true";
  } catch {}
  set(kept);
  document.querySelector(".article-header-buttons")?.prepend(button);
}

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const found = target && clips.find(({ box }) => box.contains(target));
  if (!found) return;
  found.set(true);
  target.scrollIntoView();
}

// ---- previews of equations, references, terms, errata and symbols ------------------------------

function previewLinks() {
  const links = document.querySelectorAll("a[data-preview]");
  if (!links.length) return;
  const card = make("div", { class: "preview", role: "tooltip", id: "preview", hidden: "" });
  document.body.append(card);
  let loading, timer, current;

  const show = async (link) => {
    current = link;
    await (loading ||= load("previews.js"));
    const html = window.hetpurePreviews[link.dataset.preview];
    if (!html || current !== link) return;
    card.innerHTML = html;
    card.hidden = false;
    link.setAttribute("aria-describedby", "preview");
    if (card.querySelector(".math") && window.MathJax?.typesetPromise) await window.MathJax.typesetPromise([card]);
    if (current !== link) return;
    const box = link.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, innerWidth - card.offsetWidth - 8));
    const above = box.bottom + card.offsetHeight + 12 > innerHeight && box.top > card.offsetHeight + 12;
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${(above ? box.top - card.offsetHeight - 6 : box.bottom + 6) + scrollY}px`;
  };
  const hide = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      current?.removeAttribute("aria-describedby");
      current = null;
      card.hidden = true;
    }, 120);
  };
  for (const link of links) {
    link.removeAttribute("title"); // one tooltip, not two
    link.addEventListener("pointerenter", (event) => {
      if (event.pointerType === "touch") return;
      clearTimeout(timer);
      timer = setTimeout(() => show(link), 150);
    });
    link.addEventListener("focus", () => (clearTimeout(timer), show(link)));
    for (const name of ["pointerleave", "blur"]) link.addEventListener(name, hide);
  }
  card.addEventListener("pointerenter", () => clearTimeout(timer));
  card.addEventListener("pointerleave", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
}

// A formula can be reached by key for its menu; in a link it would be a second stop at the same symbol.
function stopOnce() {
  for (const formula of document.querySelectorAll("a.symbol mjx-container")) formula.tabIndex = -1;
}

// ---- a search in files -------------------------------------------------------------------------

// Sphinx fetches every page that it found, to quote it, which a page from a file may not do. It gets the text of that
// page from one script instead.
function quoteFiles() {
  if (location.protocol !== "file:" || !document.getElementById("search-results")) return;
  const loading = load("texts.js");
  window.fetch = async (address) => {
    await loading;
    const name = address.slice(ROOT.length).replace(/\.html$/, "");
    return new Response(make("div", { role: "main" }, window.hetpureTexts[name] ?? "").outerHTML);
  };
}

// ---- code that scrolls can be reached by keyboard ----------------------------------------------

function reachScrollers() {
  for (const element of document.querySelectorAll(".bd-article :is(pre, .math, .cell_output, .output, figure.wide)")) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
    if (scrolls && element.scrollWidth > element.clientWidth + 1) {
      element.setAttribute("tabindex", "0");
    }
  }
}

for (const start of [copySpecs, clipCode, clipTables, wholeButton, findRows, openTarget, previewLinks, quoteFiles]) start();
window.addEventListener("hashchange", openTarget);
window.addEventListener("resize", reachScrollers);
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise; // formulas have their width, and what can be reached by key
  reachScrollers();
  stopOnce();
});
