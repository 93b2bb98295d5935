// Submissions: what stands below a best-known value in each scenario.
if (data.known) {
  rowAdditions.push((row, standing) => {
    const text = data.known[state.view]?.[standing[0]];
    if (text) row.querySelector('[data-c="best_known"]').append(el("span", { class: "word" }, text));
  });
}
