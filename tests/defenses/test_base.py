"""The metadata of all defenses: who is ranked, and who may know the truth."""

from __future__ import annotations

from defenses.base import Knowledge, defenses


def test_reference_rows_are_unranked_and_only_they_may_know_the_truth():
    infos = {entry.info.id: entry.info for entry in defenses.entries()}
    assert not any(infos[name].ranked for name in ("keep_initial", "refuse_all", "attackers_removed"))
    assert infos["attackers_removed"].knowledge is Knowledge.TRUTH
    assert not any(info.ranked for info in infos.values() if info.knowledge is Knowledge.TRUTH)
    assert infos["krum_one_neighbour"].variant_of == "krum"
