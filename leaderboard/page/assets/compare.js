// Comparing two to four defenses: paired differences to one of them, by scenario.
const MOST = 4;
const METRICS = ["safety", "utility", "over_refusal"];
const METRIC_LABELS = { safety: "Safety", utility: "Utility", over_refusal: "Over-refusal" };
const chosen = () => listed(state.compare).filter((id) => defenseIndex.has(id)).slice(0, MOST);

// Values by seed of a complete defense: in one scenario, or their mean over the compared ones.
function bySeed(view, d, metric) {
  const places = view === "*" ? data.scenarios.flatMap((s, index) => (s.compared ? [index] : [])) : [scenarioIndex.get(view)];
  const found = places.map((place) => (data.means[place][d] ? data.values[place][d][metric] : null));
  if (!found.length || found.includes(null)) return null;
  return data.seeds.map((_, seed) => {
    const values = found.map((values) => values[seed]);
    return values.every(Number.isFinite) ? values.reduce((a, b) => a + b, 0) / values.length : null;
  });
}

// First minus second: the t interval of the differences by seed. Where they do not vary it is the stored exact one, and
// where they are within a probe of the end of the scale it contains that one; see leaderboard/scores/stats.py.
function paired(first, second, probes) {
  const pairs = first.map((value, seed) => [value, second[seed]]).filter(([a, b]) => a !== null && b !== null);
  const n = pairs.length;
  if (!n) return null;
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const differences = pairs.map(([a, b]) => (a - b) / data.scale);
  const middle = mean(differences);
  if (n < 2) return { mean: middle };
  const good = [0, 1].map((side) => Math.round((mean(pairs.map((pair) => pair[side])) / data.scale) * probes));
  const exact = data.exact[`${good[0]},${good[1]},${probes}`];
  const varies = Math.max(...differences) - Math.min(...differences) > 3 / data.scale;
  if (!varies) return exact ? { mean: middle, low: exact[0], high: exact[1], exact: true } : { mean: middle };
  const variance = differences.reduce((sum, d) => sum + (d - middle) ** 2, 0) / (n - 1);
  const half = data.t[n - 2] * Math.sqrt(variance / n);
  const near = exact && (1 - Math.abs(middle)) * probes <= 1 + 1e-4;
  const [low, high] = near ? exact : [middle, middle];
  return { mean: middle, low: Math.max(-1, Math.min(low, middle - half)), high: Math.min(1, Math.max(high, middle + half)) };
}

// Whether two defenses are separated after Holm in a view; null where one of them is not ranked there.
function separated(view, first, second, metric) {
  const ranked = data.views[view].filter((standing) => standing[1] === 0).map((standing) => standing[0]);
  if (!ranked.includes(first) || !ranked.includes(second)) return null;
  return ((BigInt(`0x${data.separated[view][metric][first]}`) >> BigInt(second)) & 1n) === 1n;
}

function comparisonCell(view, d, base, metric) {
  const values = [d, base].map((one) => bySeed(view, one, METRICS.indexOf(metric)));
  const difference = values.includes(null) ? null : paired(...values, data.probes[view][metric]);
  if (!difference) return el("td", { class: "void" }, "no score");
  const ends = difference.low === undefined ? [] : [points(difference.low), points(difference.high), difference.exact];
  const apart = separated(view, d, base, metric);
  const word = apart === null ? "not tested" : apart ? "separated" : "not separated";
  return el("td", { class: apart ? "apart" : "" }, ...withInterval(signed(difference.mean), ...ends),
    el("span", { class: "word" }, word));
}

function comparisonTable(ids) {
  const base = defenseIndex.get(ids.includes(state.base) ? state.base : ids[0]);
  const others = ids.map((id) => defenseIndex.get(id)).filter((d) => d !== base);
  const views = ["*", ...data.scenarios.filter((s) => s.attacked).map((s) => s.id)];
  const title = (d) => data.defenses[d].title;
  const head = el("thead", {},
    el("tr", { class: "group" }, el("td", { class: "stick" }),
      others.map((d) => el("th", { scope: "colgroup", colspan: 3 }, el("bdi", {}, title(d)), " minus ", el("bdi", {}, title(base))))),
    el("tr", {}, el("th", { scope: "col", class: "stick" }, "Scenario"),
      others.flatMap(() => METRICS.map((metric) => el("th", { scope: "col" }, METRIC_LABELS[metric])))));
  const rows = views.map((view) => el("tr", {},
    el("th", { scope: "row" }, view === "*" ? "All compared" : el("bdi", {}, data.scenarios[scenarioIndex.get(view)].title)),
    others.flatMap((d) => METRICS.map((metric) => comparisonCell(view, d, base, metric)))));
  const caption = el("caption", {}, data.seeds.length > 1
    ? "Paired differences in points with 95 % intervals, each for its pair alone; separated or not after Holm over all ranked pairs of the row and metric. More over-refusal is worse."
    : "Differences in points. A single seed gives no interval and no test.");
  return el("div", { class: "scroll", role: "region", "aria-label": "Comparison", tabindex: "0" },
    el("table", { class: "plain compare" }, caption, head, el("tbody", {}, rows)));
}

function showComparison() {
  const ids = chosen();
  for (const row of body.rows) {
    const box = row.querySelector("input[type=checkbox]");
    box.checked = ids.includes(data.defenses[indexOf(row)].id);
    box.disabled = !box.checked && ids.length >= MOST;
  }
  const panel = document.getElementById("comparing");
  const place = document.getElementById("compared");
  panel.hidden = ids.length === 0;
  if (!ids.length) return;
  const clear = el("button", { type: "button", id: "compare-clear" }, "Clear");
  if (ids.length === 1) {
    place.replaceChildren(el("p", { class: "controls" },
      el("span", {}, el("bdi", {}, data.defenses[defenseIndex.get(ids[0])].title), " is chosen; tick one to three more."), clear));
    return;
  }
  const against = el("select", { id: "base" },
    ids.map((id) => el("option", { value: id, selected: id === (ids.includes(state.base) ? state.base : ids[0]) },
      data.defenses[defenseIndex.get(id)].title)));
  place.replaceChildren(
    el("div", { class: "controls" }, el("label", { class: "field" }, "Differences to ", against), clear),
    comparisonTable(ids));
}

body.addEventListener("change", (event) => {
  const id = data.defenses[indexOf(event.target.closest("tr"))].id;
  const ids = chosen().filter((other) => other !== id);
  if (event.target.checked) ids.push(id);
  update({ compare: unlisted(ids) });
});
document.getElementById("comparing").addEventListener("change", (event) => update({ base: event.target.value }));
document.getElementById("comparing").addEventListener("click", (event) => {
  if (event.target.id === "compare-clear") update({ compare: "", base: "" });
});
