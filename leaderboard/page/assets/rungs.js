// Submissions: the name of their group, and what stands below a best-known value in each scenario.
GROUP_LABELS[data.groups.indexOf("not_reproduced")] = "not reproduced";

if (data.known) {
  const fillPlain = fillRow;
  fillRow = (row, standing) => {
    fillPlain(row, standing);
    const text = data.known[state.view]?.[standing[0]];
    if (text) row.querySelector('[data-c="best_known"]').append(el("span", { class: "word" }, text));
  };
}
