// The ranking: one body of rows, filled with the standings of the chosen scenario.
const table = document.getElementById("table");
const body = table.tBodies[0];
const pristine = Array.from(body.rows, (row) => row.cloneNode(true));
let shownView = "*";
// Functions of other scripts that add to a filled row; each is called with the row and its standing.
const rowAdditions = [];

const standings = () => data.views[state.view];
const rowsInOrder = () => Array.from(body.rows);
const indexOf = (row) => Number(row.dataset.d);

function fillRow(row, standing) {
  const [, group, rank, shares, costs, notes, , excess] = standing;
  const [groupId, label] = data.groups[group];
  row.className = `group-${groupId}`;
  const cell = (key) => row.querySelector(`[data-c="${key}"]`);
  cell("rank").textContent = cell("rank").dataset.v = rank || "";
  const badge = row.querySelector(".badge");
  badge.className = `badge ${groupId}`;
  badge.textContent = label;
  badge.hidden = group === 0;
  const refuses = row.querySelector(".refuses");
  refuses.hidden = !excess;
  if (excess) {
    const [mean, low, high] = excess;
    const ends = low === undefined ? "" : `, 95 % interval [${tenths(low)}, ${tenths(high)}]`;
    refuses.textContent = `refuses +${Math.round(mean / 10)}`;
    refuses.title = `refuses +${Math.round(mean / 10)} points more benign look-alikes than un-attacked FedAvg${ends}`;
  }
  const note = row.querySelector(".note");
  note.textContent = notes;
  note.hidden = !notes;
  data.shares.forEach((key, index) => {
    const share = shares[index];
    cell(key).dataset.v = Array.isArray(share) ? share[0] : "";
    cell(key).replaceChildren(...shareNodes(share));
  });
  data.costs.forEach((key, index) => {
    cell(key).dataset.v = typeof costs[index] === "number" ? costs[index] : "";
    cell(key).replaceChildren(el("span", { class: "n" }, cost(costs[index])));
  });
  cell("worst").dataset.v = "";
  cell("worst").removeAttribute("title");
  cell("worst").replaceChildren(el("span", { class: "n" }, DASH));
  const bar = row.querySelector(".bar");
  const safety = shares[0];
  bar.hidden = !safety;
  const place = (value) => `${Math.min(1000, Math.max(0, value)) / 10}%`;
  if (safety) {
    const [mean, low = mean, high = mean] = safety;
    for (const [name, value] of [["--m", mean], ["--l", low], ["--h", high]]) bar.style.setProperty(name, place(value));
  }
  for (const add of rowAdditions) add(row, standing);
}

function showView() {
  if (shownView === state.view) return;
  shownView = state.view;
  const fresh = new Map(pristine.map((row) => [indexOf(row), row.cloneNode(true)]));
  body.replaceChildren(...standings().map((standing) => fresh.get(standing[0])));
  if (state.view !== "*") for (const standing of standings()) fillRow(fresh.get(standing[0]), standing);
  const base = standings().find(([d]) => data.defenses[d].id === "fedavg")?.[3][0];
  if (base) body.style.setProperty("--base", `${base[0] / 10}%`);
  else body.style.removeProperty("--base");
  for (const part of document.querySelectorAll("p[data-view], details[data-view], span[data-view]")) part.hidden = part.dataset.view !== state.view;
}

function showColumns() {
  const wide = state.cols === "all";
  table.classList.toggle("narrow", !wide);
  for (const heading of table.querySelectorAll("th[data-narrow]")) {
    heading.colSpan = Number(wide ? heading.dataset.wide : heading.dataset.narrow);
  }
  document.getElementById("cols").checked = wide;
}

function sortRanking() {
  const rank = standings().map(([d]) => d);
  const before = rowsInOrder();
  let rows = [...before].sort((a, b) => rank.indexOf(indexOf(a)) - rank.indexOf(indexOf(b)));
  if (state.sort) rows = ordered(rows, state.sort, state.dir || "descending");
  if (rows.some((row, index) => row !== before[index])) body.append(...rows);
  markSorted(table, state.sort, state.dir || "descending");
  let last = null;
  for (const row of rows) {
    const key = `${row.className.match(/group-\w+/)[0]} ${row.querySelector(".rank").textContent}`;
    row.classList.toggle("first", !state.sort && last !== null && key !== last);
    last = key;
  }
}

function matches({ text, stages, told, origins }) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return words.every((word) => text.includes(word))
    && (!state.stage || stages.includes(state.stage))
    && (!state.told || told === state.told)
    && (!state.origin || origins.includes(state.origin));
}

function filterRows() {
  const visible = data.defenses.map(matches);
  for (const row of document.querySelectorAll("tr[data-d]")) row.hidden = !visible[indexOf(row)];
  const count = visible.filter(Boolean).length;
  const all = visible.length;
  document.getElementById("shown").textContent = count < all ? `${count} of ${all} shown` : "";
  document.getElementById("none").hidden = count > 0;
  return visible;
}

// Who is told apart from a defense, by the tests that the ranks rest on.
function neighbours(d) {
  const own = standings().find((standing) => standing[0] === d);
  if (!own || own[1] !== 0 || !own[2]) return { tied: [], safer: [] };
  const ranked = standings().filter((standing) => standing[1] === 0 && standing[0] !== d);
  const tied = ranked.filter(([other, , , , , , better]) => !own[6].includes(other) && !better.includes(d));
  return { tied: tied.map(([other]) => other), safer: own[6] };
}

function pointOut(row) {
  const said = document.getElementById("neighbours");
  const { tied, safer } = row ? neighbours(indexOf(row)) : { tied: [], safer: [] };
  for (const other of body.rows) {
    other.classList.toggle("tied", tied.includes(indexOf(other)));
    other.classList.toggle("safer", safer.includes(indexOf(other)));
    other.classList.toggle("chosen", other === row && tied.length + safer.length > 0);
  }
  if (!row) return;
  const names = (list) => list.map((d) => data.defenses[d].title).join(", ");
  const parts = [];
  if (tied.length) parts.push(`not separated from ${names(tied)}`);
  if (safer.length) parts.push(`significantly safer: ${names(safer)}`);
  said.textContent = parts.length ? `${data.defenses[indexOf(row)].title}: ${parts.join("; ")}.` : "";
}

for (const kind of ["pointerover", "focusin"]) {
  body.addEventListener(kind, (event) => pointOut(event.target.closest("tr")));
}
for (const kind of ["pointerleave", "focusout"]) body.addEventListener(kind, () => pointOut(null));
