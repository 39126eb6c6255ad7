// What the pages do beyond reading: specs are copied, long tables filtered, links previewed.
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

// ---- long tables: folded, and filtered by what is typed ----------------------------------------

const SHOWN = 12; // rows of a folded table

function filterTables() {
  for (const table of document.querySelectorAll("table.long, .long > table")) {
    const rows = [...table.querySelectorAll("tbody tr")];
    if (rows.length <= SHOWN) continue;
    let open = false;
    const count = make("span", { class: "filter-count", role: "status" });
    const input = make("input", { type: "search", placeholder: "filter rows", "aria-label": "filter the rows of this table" });
    const more = make("button", { type: "button", class: "filter-more" });
    const update = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = rows.filter((row) => {
        const text = (row.textContent + " " + [...row.querySelectorAll("[title]")].map((e) => e.title).join(" ")).toLowerCase();
        return words.every((word) => text.includes(word));
      });
      const visible = new Set(open || words.length ? found : found.slice(0, SHOWN));
      for (const row of rows) row.hidden = !visible.has(row);
      count.textContent = `${visible.size} of ${rows.length} rows`;
      more.textContent = open ? "show fewer" : `show all ${rows.length}`;
      more.hidden = words.length > 0;
    };
    more.addEventListener("click", () => {
      open = !open;
      update();
    });
    input.addEventListener("input", update);
    const bar = make("div", { class: "filter" }, input, count, more);
    (table.closest(".table-box") || table).before(bar);
    update();
    window.addEventListener("beforeprint", () => rows.forEach((row) => (row.hidden = false)));
    window.addEventListener("afterprint", update);
  }
}

// ---- previews of equations, references, terms and errata ---------------------------------------

function previewLinks() {
  const links = document.querySelectorAll("a[data-preview]");
  if (!links.length) return;
  const root = document.documentElement.dataset.content_root || "./";
  const card = make("div", { class: "preview", role: "tooltip", id: "preview", hidden: "" });
  document.body.append(card);
  let loading, timer, current;

  const load = () =>
    (loading ||= new Promise((done, failed) => {
      document.head.append(make("script", { src: `${root}_static/previews.js`, onload: done, onerror: failed }));
    }));

  const show = async (link) => {
    current = link;
    await load();
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

// ---- code that scrolls can be reached by keyboard ----------------------------------------------

function reachScrollers() {
  for (const element of document.querySelectorAll(".bd-article :is(pre, .math, .cell_output, .output, figure.wide)")) {
    if (element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== "visible") {
      element.setAttribute("tabindex", "0");
    }
  }
}

for (const start of [copySpecs, filterTables, previewLinks]) start();
for (const event of ["load", "resize"]) window.addEventListener(event, reachScrollers);
