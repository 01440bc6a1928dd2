// Headers that sort, by click or key, rows that unfold, a filter, and values of figures under the pointer.
// Without scripts the tables are complete as they stand, and figures show their values as viewers show titles.
"use strict";
const bar = document.querySelector("nav.bar");
const place = () => document.documentElement.style.setProperty("--bar", `${bar.offsetHeight - 1}px`);
if (bar) {
  place();
  addEventListener("resize", place);
}
for (const table of document.querySelectorAll("table.sortable")) {
  const original = Array.from(table.tBodies);
  const headers = Array.from(table.tHead.rows[0].cells);
  const key = (body, column) => {
    const value = body.rows[0].cells[column].dataset.sort;
    return value === undefined || value === "" ? null : isNaN(value) ? value : Number(value);
  };
  headers.forEach((header, column) => {
    if (!original.some((body) => key(body, column) !== null)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const state = header.getAttribute("aria-sort");
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      let bodies = original;
      if (state !== "descending") {
        const sign = state === "ascending" ? -1 : 1;
        header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        bodies = original.slice().sort((first, second) => {
          const a = key(first, column);
          const b = key(second, column);
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * (a < b ? -1 : a > b ? 1 : 0);
        });
      }
      table.append(...bodies);
    });
  });
  for (const body of original) {
    const fold = body.querySelector("tr.fold");
    if (!fold) continue;
    table.classList.add("folding");
    const button = document.createElement("button");
    button.type = "button";
    button.className = fold.classList.contains("narrow") ? "more narrow" : "more";
    button.title = "more of this row";
    button.setAttribute("aria-label", `more of ${body.dataset.name}`);
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      button.setAttribute("aria-expanded", String(body.classList.toggle("open")));
    });
    body.rows[0].cells[0].prepend(button);
  }
  const filter = document.querySelector(`input.filter[data-table="${table.id}"]`);
  if (filter) {
    filter.hidden = false;
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const body of original) {
        const text = (body.dataset.name + " " + body.textContent).toLowerCase();
        body.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
}
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
for (const spot of document.querySelectorAll("svg.figure .tip")) {
  const title = spot.querySelector("title");
  const text = title.textContent;
  spot.addEventListener("pointerenter", (event) => {
    title.textContent = "";
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 10, 4)}px`;
  });
  spot.addEventListener("pointerleave", () => {
    title.textContent = text;
    tip.hidden = true;
  });
}
