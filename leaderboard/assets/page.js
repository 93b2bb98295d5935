"use strict";

// Sorting: a heading's button sorts every body of its table; what was not measured stays last.
function sortBy(table, button) {
  const heading = button.closest("th");
  const key = heading.dataset.key;
  const before = heading.getAttribute("aria-sort");
  const first = heading.dataset.first || "descending";
  const direction = before === "none" ? first : before === "descending" ? "ascending" : "descending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const worth = (row) => {
    const cell = row.querySelector(`[data-c="${key}"]`);
    return cell ? cell.dataset.v : "";
  };
  for (const body of table.tBodies) {
    const rows = Array.from(body.rows, (row, index) => ({ row, index, value: worth(row) }));
    rows.sort((a, b) => {
      if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "") || a.index - b.index;
      const x = Number(a.value);
      const y = Number(b.value);
      const order = Number.isNaN(x) || Number.isNaN(y) ? a.value.localeCompare(b.value, "en") : x - y;
      return sign * order || a.index - b.index;
    });
    body.append(...rows.map((entry) => entry.row));
  }
}

// Choosing a scenario shows its body of the ranking and its paragraph; the address keeps the choice.
function show(view) {
  for (const part of document.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== view;
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.addEventListener("click", (event) => {
    const button = event.target.closest("th button");
    if (button) sortBy(table, button);
  });
}

const chooser = document.getElementById("scenario");
if (chooser) {
  chooser.disabled = false;
  const wanted = decodeURIComponent(location.hash).replace(/^#view=/, "");
  if (Array.from(chooser.options).some((option) => option.value === wanted)) chooser.value = wanted;
  show(chooser.value);
  chooser.addEventListener("change", () => {
    show(chooser.value);
    history.replaceState(null, "", `#view=${encodeURIComponent(chooser.value)}`);
  });
}
