// Everything together: the state is applied on loading, on every change and on going back.
const FIELDS = ["view", "q", "stage", "told", "origin", "x", "y", "detect"];
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const field = (id) => document.getElementById(id);

function apply() {
  if (!Object.hasOwn(data.views, state.view)) state.view = "*";
  for (const id of FIELDS) {
    const input = field(id);
    if (input && document.activeElement !== input) input.value = state[id];
  }
  showView();
  showColumns();
  sortRanking();
  const visible = filterRows();
  showComparison();
  showTradeOff(visible);
  showDetection();
  return showSheet();
}

// A change of the state; what opens another view becomes a step that the back button undoes.
function update(changes, step = false) {
  state = { ...state, ...changes };
  if (step) {
    history.replaceState({ y: scrollY }, "");
    history.pushState({ y: 0 }, "", address());
  } else {
    history.replaceState(history.state, "", address());
  }
  return apply();
}

function goTo(sheet, smooth = false) {
  const target = sheet ?? (state.at && document.getElementById(state.at));
  if (sheet) scrollTo(0, 0);
  else if (target) target.scrollIntoView({ behavior: smooth ? "smooth" : "instant" });
  if (!target) return;
  if (!target.hasAttribute("tabindex")) target.setAttribute("tabindex", "-1");
  target.focus({ preventScroll: true });
}

function restore() {
  state = { ...DEFAULTS, ...parse(location.hash) };
  const sheet = apply();
  if (history.state && Number.isFinite(history.state.y)) scrollTo(0, history.state.y);
  else goTo(sheet);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  goTo(update({ defense: "", scenario: "", at: "", ...parse(link.getAttribute("href")) }, true), !calm.matches);
});

table.addEventListener("click", (event) => {
  const heading = event.target.closest("th button")?.closest("th");
  if (heading) update({ sort: heading.dataset.key, dir: nextDirection(heading) });
});

for (const id of FIELDS) {
  const input = field(id);
  if (!input) continue;
  input.addEventListener(id === "q" ? "input" : "change", () => update({ [id]: input.value }, id === "view"));
}
field("cols").addEventListener("change", (event) => update({ cols: event.target.checked ? "all" : "" }));
field("controls").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["reset", "reset2"]) {
  field(id).addEventListener("click", () => {
    update({ ...DEFAULTS, x: state.x, y: state.y });
    field("q").value = "";
  });
}

// Citing: the benchmark, or one defense's score, overall or in one scenario. Every text comes from the rows' own side.
const dialog = field("cite");
const [what, where] = [field("cite-what"), field("cite-where")];
what.append(el("option", { value: "" }, "The benchmark"),
  ...data.defenses.map(({ id, title }) => el("option", { value: id }, title)));
where.append(...Object.keys(data.views).map((view) =>
  el("option", { value: view }, view === "*" ? "All compared scenarios" : data.scenarios[scenarioIndex.get(view)].title)));

function citation(defense, view) {
  const packed = data.cite.of[defense ? view : "*"]?.[defense];
  return packed?.map((numbers) => numbers.map((number) => data.cite.pieces[number]).join(""));
}

function fillCitation() {
  where.disabled = what.value === "";
  const texts = citation(what.value, where.value);
  field("cite-own").hidden = texts !== undefined;
  field("cite-parts").hidden = texts === undefined;
  ["sentence", "bibtex", "command"].forEach((part, index) => { field(`cite-${part}`).textContent = texts?.[index] ?? ""; });
  field("cite-said").textContent = "";
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-cite], button[data-copy]");
  if (!button) return;
  if (button.dataset.copy) {
    copyText(field(button.dataset.copy), field("cite-said"));
  } else if ("copy" in button.dataset) {
    copyText(button.previousElementSibling, button.nextElementSibling);
  } else {
    what.value = defenseIndex.has(button.dataset.cite) ? button.dataset.cite : "";
    where.value = button.dataset.where ?? state.view;
    fillCitation();
    dialog.showModal();
  }
});
for (const choice of [what, where]) choice.addEventListener("change", fillCitation);
field("cite-close").addEventListener("click", () => dialog.close());

document.documentElement.classList.add("js");
history.scrollRestoration = "manual";
addEventListener("popstate", restore);
addEventListener("pagehide", () => history.replaceState({ y: scrollY }, ""));
restore();
