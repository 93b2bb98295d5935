// Tuned attacks: the attack and the budget below a worst-tuned value in each scenario.
if (data.tuned) {
  rowAdditions.push((row, standing) => {
    const text = data.tuned[state.view]?.[standing[0]];
    if (text) row.querySelector('[data-c="worst_tuned"]').append(el("span", { class: "word" }, text));
  });
}
