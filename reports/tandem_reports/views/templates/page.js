// Sorting by a click on a header and filtering by text. Without scripts the tables are complete as they stand.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const key = (row, column) => {
    const value = row.cells[column].dataset.sort;
    return value === undefined || value === "" ? null : isNaN(value) ? value : Number(value);
  };
  headers.forEach((header, column) => {
    if (!original.some((row) => key(row, column) !== null)) return;
    header.classList.add("can");
    header.addEventListener("click", () => {
      const state = header.getAttribute("aria-sort");
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      let rows = original;
      if (state !== "descending") {
        const sign = state === "ascending" ? -1 : 1;
        header.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        rows = original.slice().sort((first, second) => {
          const a = key(first, column);
          const b = key(second, column);
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * (a < b ? -1 : a > b ? 1 : 0);
        });
      }
      body.append(...rows);
    });
  });
  const filter = document.querySelector(`input.filter[data-table="${table.id}"]`);
  if (filter) {
    filter.hidden = false;
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of original) {
        const text = (row.dataset.name + " " + row.textContent).toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
}
