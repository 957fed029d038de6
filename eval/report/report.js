// The report's behaviour: theme, tabs, enlarged pictures, the current place in the navigation. Works from a file, offline.
"use strict";
const root = document.documentElement;
root.classList.add("scripted");

function remembered(value) {
  try {
    if (value !== undefined) localStorage.setItem("fairweather-theme", value);
    return localStorage.getItem("fairweather-theme");
  } catch {
    return null; // a browser that keeps nothing for local files
  }
}
if (remembered()) root.dataset.theme = remembered();
document.querySelector(".theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remembered(root.dataset.theme);
});

for (const list of document.querySelectorAll('[role="tablist"]')) {
  const buttons = [...list.querySelectorAll('[role="tab"]')];
  const choose = (chosen) => {
    for (const button of buttons) {
      const current = button === chosen;
      button.setAttribute("aria-selected", String(current));
      button.tabIndex = current ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).className = current ? "current" : "other";
    }
  };
  list.addEventListener("click", (event) => {
    const button = event.target.closest('[role="tab"]');
    if (button) choose(button);
  });
  list.addEventListener("keydown", (event) => {
    const place = buttons.indexOf(document.activeElement);
    const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: buttons.length - 1 };
    if (place < 0 || !(event.key in moves)) return;
    event.preventDefault();
    const next = buttons[(moves[event.key] + buttons.length) % buttons.length];
    choose(next);
    next.focus();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

// A sortable table: its heads become buttons. Numbers fall first, text rises first; cells without a figure stay last.
function sortKey(row, column) {
  const text = (row.cells[column]?.textContent ?? "").trim().replace("\u2212", "-");
  const value = parseFloat(text);
  return text === "" || text === "\u2013" ? null : Number.isNaN(value) ? text : value;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row, column), row]);
      const words = rows.some(([key]) => typeof key === "string");
      const before = head.getAttribute("aria-sort");
      const rising = before === null ? words : before === "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const order = words ? String(a).localeCompare(String(b), undefined, { numeric: true }) : a - b;
        return rising ? order : -order;
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

const dialog = document.querySelector("dialog");
const shots = [...document.querySelectorAll(".shot")];
let shown = 0;
function show(place) {
  shown = (place + shots.length) % shots.length;
  dialog.querySelector(".stage").replaceChildren(shots[shown].querySelector("svg").cloneNode(true));
  dialog.querySelector("p").textContent = shots[shown].getAttribute("aria-label");
  if (!dialog.open) dialog.showModal();
}
shots.forEach((shot, place) => shot.addEventListener("click", () => show(place)));
if (dialog) {
  dialog.querySelector(".previous").addEventListener("click", () => show(shown - 1));
  dialog.querySelector(".next").addEventListener("click", () => show(shown + 1));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(shown + 1);
    if (event.key === "ArrowLeft") show(shown - 1);
  });
  dialog.addEventListener("close", () => shots[shown].focus());
}

const links = [...document.querySelectorAll(".top nav a")];
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links) {
        if (link.hash === "#" + entry.target.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  },
  { rootMargin: "-20% 0px -70% 0px" },
);
document.querySelectorAll("main section[id]").forEach((section) => watcher.observe(section));
