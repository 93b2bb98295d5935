// Pages of one defense or scenario: every cell by seed, and the command that makes a cell again.
const sheets = Array.from(document.querySelectorAll("article.sheet"));
const WORDS = { not_applicable: "n/a", null: DASH };

const shellWord = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);

// Positions of a scenario's seeds among all.
const seedsAt = (place) => data.scenarios[place].seeds ?? data.seeds.map((_, seed) => seed);

function command(scenario, defense, seed) {
  const options = { suite: data.suite, scenario, defense, seed: String(seed) };
  return `fedsafety run ${Object.entries(options).map(([name, value]) => `--${name} ${shellWord(value)}`).join(" ")}`;
}

function seedCell(value, place) {
  const at = { "data-place": place[0], "data-seed": place[1] };
  if (Number.isFinite(value)) return el("td", at, points(value / data.scale));
  return el("td", { ...at, class: "void" }, WORDS[value] ?? String(value).replaceAll("_", " "));
}

// A cell of a seed that the suite does not run in this scenario.
const noCell = () => el("td", { class: "void", title: "not a seed of this scenario" });

function cellsTable(kind, own) {
  const columns = kind === "scenario" ? seedsAt(own) : data.seeds.map((_, seed) => seed);
  const metric = Math.max(0, METRICS.indexOf(state.cells));
  const others = kind === "defense" ? data.scenarios : data.defenses;
  const rows = others.flatMap((_, other) => {
    const [place, d] = kind === "defense" ? [other, own] : [own, other];
    const values = data.values[place][d];
    if (!values) return [];
    const means = data.means[place][d];
    return [el("tr", {},
      el("th", { scope: "row" }, kind === "defense" ? scenarioLink(other) : defenseLink(other)),
      el("td", {}, ...(means ? shareNodes(means[metric]) : withInterval(DASH))),
      columns.map((seed) => (values[metric][seed] !== null || seedsAt(place).includes(seed)
        ? seedCell(values[metric][seed], [other, seed]) : noCell())))];
  });
  return el("div", { class: "scroll tall", role: "region", "aria-label": "Cells by seed", tabindex: "0" },
    el("table", { class: "plain cellsof" },
      el("caption", {}, `${METRIC_LABELS[METRICS[metric]]} in percent: mean with 95 % interval, then each seed`),
      el("thead", {}, el("tr", {},
        el("th", { scope: "col", class: "stick" }, kind === "defense" ? "Scenario" : "Defense"),
        el("th", { scope: "col" }, "Mean"), columns.map((seed) => el("th", { scope: "col" }, `seed ${data.seeds[seed]}`)))),
      el("tbody", {}, rows)));
}

// Choosing a cell, by the two lists or by a click into the table, writes its command.
function commandBox(kind, own, sheet) {
  const others = kind === "defense" ? data.scenarios : data.defenses;
  const known = others.flatMap((_, other) =>
    ((kind === "defense" ? data.values[other][own] : data.values[own][other]) ? [other] : []));
  const which = el("select", { class: "which" }, known.map((other) => el("option", { value: other }, others[other].title)));
  const seeds = el("select", { class: "seed" }, data.seeds.map((seed, index) => el("option", { value: index }, String(seed))));
  const code = el("code", { class: "command", tabindex: "0" });
  const said = el("span", { role: "status", class: "quiet" });
  const write = () => {
    const at = kind === "scenario" ? seedsAt(own) : which.value === "" ? [] : seedsAt(Number(which.value));
    for (const option of seeds.options) option.hidden = option.disabled = !at.includes(Number(option.value));
    if (at.length && !at.includes(Number(seeds.value))) seeds.value = String(at[0]);
    const other = others[Number(which.value)]?.id ?? "";
    const [scenario, defense] = kind === "defense" ? [other, data.defenses[own].id] : [data.scenarios[own].id, other];
    code.textContent = command(scenario, defense, data.seeds[Number(seeds.value)]);
    said.textContent = "";
  };
  for (const list of [which, seeds]) list.addEventListener("change", (event) => { event.stopPropagation(); write(); });
  const copy = el("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => copyText(code, said));
  sheet.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-place]");
    if (!cell) return;
    which.value = cell.dataset.place;
    seeds.value = cell.dataset.seed;
    write();
  });
  write();
  return el("div", { class: "reproduce" }, el("h3", {}, "Make a cell again"),
    el("div", { class: "controls" },
      el("label", { class: "field" }, kind === "defense" ? "Scenario " : "Defense ", which),
      el("label", { class: "field" }, "Seed ", seeds)),
    el("p", { class: "line" }, code, copy, said));
}

function fillSheet(sheet) {
  const { kind, key } = sheet.dataset;
  const own = (kind === "defense" ? defenseIndex : scenarioIndex).get(key);
  const place = sheet.querySelector(".cells");
  if (!place.hasChildNodes()) {
    const choose = el("select", { class: "metric" },
      METRICS.map((metric) => el("option", { value: metric }, METRIC_LABELS[metric])));
    choose.addEventListener("change", () => update({ cells: choose.value }));
    place.append(el("h3", {}, "Cells"), el("div", { class: "controls" }, el("label", { class: "field" }, "Score ", choose)),
      el("div", { class: "scroller" }), commandBox(kind, own, sheet));
  }
  for (const part of sheet.querySelectorAll("details")) part.open = true;
  place.querySelector(".metric").value = METRICS.includes(state.cells) ? state.cells : METRICS[0];
  place.querySelector(".scroller").replaceChildren(cellsTable(kind, own));
}

// Shows the sheet that the state asks for, and nothing else; returns it.
function showSheet() {
  const kind = state.defense ? "defense" : "scenario";
  const open = sheets.find((sheet) => sheet.dataset.kind === kind && sheet.dataset.key === state[kind]) ?? null;
  for (const sheet of sheets) sheet.classList.toggle("open", sheet === open);
  document.documentElement.classList.toggle("detail", open !== null);
  if (open && !("static" in open.dataset)) fillSheet(open);
  return open;
}
