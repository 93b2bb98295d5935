// Precision, recall and exclusion in one scenario, over all rounds and by the number of malicious participants.
const DETECTION_LABELS = ["Precision", "Recall", "False exclusion", "AUC"];

function detectionTable(scenario) {
  const lines = data.detection[scenario] ?? [];
  const splits = new Map();
  for (const [, , groups] of lines) for (const [name, rounds] of groups) splits.set(name, Math.max(rounds, splits.get(name) ?? 0));
  const names = [...splits.keys()];
  const column = (label) => el("th", { scope: "col" }, label);
  const head = el("thead", {},
    el("tr", { class: "group" }, el("td", { class: "stick" }), el("th", { scope: "colgroup", colspan: 4 }, "All rounds"),
      names.map((name) => el("th", { scope: "colgroup", colspan: 3 }, `${name}, ${splits.get(name)} rounds`))),
    el("tr", {}, el("th", { scope: "col", class: "stick" }, "Defense"), DETECTION_LABELS.map(column),
      names.flatMap(() => DETECTION_LABELS.slice(1).map(column))));
  const rows = lines.map(([d, whole, groups]) => el("tr", {},
    el("th", { scope: "row" }, defenseLink(d)),
    whole.map((share) => el("td", {}, ...shareNodes(share))),
    names.flatMap((name) => {
      const values = groups.find(([own]) => own === name)?.[2] ?? [0, 0, 0];
      return values.map((share) => el("td", {}, ...shareNodes(share)));
    })));
  const caption = `${data.scenarios[scenarioIndex.get(scenario)].title}: of the clients that a rule takes more than half the`
    + " say from, the share that is malicious (precision); of the malicious ones, the share it catches (recall); of the"
    + " benign ones, the share it excludes. In percent, with 95 % intervals.";
  return el("div", { class: "scroll", role: "region", "aria-label": "Precision and recall", tabindex: "0" },
    el("table", { class: "plain" }, el("caption", {}, caption), head, el("tbody", {}, rows)));
}

function showDetection() {
  const choice = document.getElementById("detect");
  if (!choice) return;
  const scenario = Object.hasOwn(data.detection, state.detect) ? state.detect : choice.options[0].value;
  choice.value = scenario;
  document.getElementById("detected").replaceChildren(detectionTable(scenario));
}
