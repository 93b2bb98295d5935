// Numbers as the tables write them. Shares arrive in tenths of a percent, already rounded.
const MINUS = "\u2212";
const DASH = "\u2013";
const tenths = (value) => (value / 10).toFixed(1).replace("-", MINUS);
const points = (share) => {
  const text = (100 * share).toFixed(1);
  return Number(text) === 0 ? "0.0" : text.replace("-", MINUS);
};
const signed = (share) => (Number((100 * share).toFixed(1)) > 0 ? `+${points(share)}` : points(share));

function cost(value) {
  if (value === null) return DASH;
  if (typeof value === "string") return value;
  if (value < 10 && !Number.isInteger(value)) return value.toFixed(value < 1 ? 2 : 1);
  return value.toFixed(0).replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

// Contents of a cell: a number with its interval below.
function withInterval(number, low, high, exact) {
  const nodes = [el("span", { class: "n" }, number)];
  if (low !== undefined) {
    const mark = exact ? el("abbr", { title: "exact interval over probes, because the seeds do not vary" }, "e") : null;
    nodes.push(el("span", { class: "ci" }, `[${low}, ${high}]`, mark));
  }
  return nodes;
}

// A text stands for a cell that the suite leaves out.
const shareNodes = (share) =>
  typeof share === "string" ? withInterval(share) : share ? withInterval(tenths(share[0]), ...share.slice(1, 3).map(tenths), ...(share.length > 3 ? [true] : []))
    : withInterval(DASH);

// Rows in the order of a column; what was not measured stays last, equals stay as they were.
function ordered(rows, key, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  const keyed = rows.map((row, index) => {
    const cell = row.querySelector(`[data-c="${CSS.escape(key)}"]`);
    return { row, index, value: cell ? cell.dataset.v : "" };
  });
  keyed.sort((a, b) => {
    if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "") || a.index - b.index;
    const x = Number(a.value);
    const y = Number(b.value);
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.value.localeCompare(b.value, "en") : x - y;
    return sign * order || a.index - b.index;
  });
  return keyed.map((entry) => entry.row);
}

function nextDirection(heading) {
  const before = heading.getAttribute("aria-sort");
  if (before === "none") return heading.dataset.first;
  return before === "descending" ? "ascending" : "descending";
}

function markSorted(table, key, direction) {
  for (const heading of table.querySelectorAll("th[data-key]")) {
    heading.setAttribute("aria-sort", heading.dataset.key === key ? direction : "none");
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.addEventListener("click", (event) => {
    const heading = event.target.closest("th button")?.closest("th");
    if (!heading) return;
    const direction = nextDirection(heading);
    markSorted(table, heading.dataset.key, direction);
    for (const body of table.tBodies) body.append(...ordered(Array.from(body.rows), heading.dataset.key, direction));
  });
}

// Copying: the clipboard where it is allowed, else the old way; either way a word says so.
async function copyText(source, said) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  said.textContent = "";
  setTimeout(() => { said.textContent = "Copied."; }, 30); // a changed text is announced, the same one is not
}
