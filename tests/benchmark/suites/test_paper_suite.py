"""The suite of the seed paper: every published setting, every row of every table, and twins that fit."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
import yaml

from attacks.base import attacks
from benchmark.errors import NotApplicableError
from benchmark.execution.selection import suite_pipelines
from benchmark.suites.sensitivity import SensitivityScenario
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Scenario, Suite, find_suite, suites
from defenses.base import defenses

COMMIT = re.compile(r"[0-9a-f]{40}")
PUBLISHED = yaml.safe_load(files("leaderboard.citation").joinpath("papers/ye2025.yaml").read_text(encoding="utf-8"))
TABLES = {table["id"]: table for table in PUBLISHED["tables"]}
METHODS = {
    "fedavg": "fedavg",
    "median": "median",
    "trimmed_mean": "trimmed_mean",
    "krum": "krum_fedllm_attack",
    "dnc": "dnc",
    "foolsgold": "foolsgold_no_history",
    "residual": "residual_fedllm_attack",
    "level1": "posthoc_public",
    "level2": "posthoc_external",
    "level3": "posthoc_self",
}
"""Row of the published tables -> what reproduces it."""
SCENARIOS = {
    "1": ["lmsys_beavertails", "wildchat_beavertails"],
    "2": ["lmsys_generated", "wildchat_generated"],
    "4": ["k50_lmsys_generated", "k100_lmsys_generated"],
    "5": ["clean_wildchat"],
    "6": ["code_generated"],
    "7": [f"wildchat_beavertails{share}" for share in ("_share_10", "_share_20", "", "_share_40")],
    "8": ["lmsys_beavertails", "mistral_lmsys_beavertails"],
}
"""Table -> the scenarios of its columns, in order."""


@pytest.fixture(scope="module")
def paper() -> Suite:
    return find_suite("paper")


def runs_in(suite: Suite, scenario: Scenario) -> list[str]:
    """Return the pipelines that a scenario runs when nothing is chosen."""
    if isinstance(scenario, SensitivityScenario):
        return list(scenario.defenses)
    return [*suite_pipelines(suite), *scenario.variants]


def test_training_as_published(paper: Suite) -> None:
    training = paper.training
    assert (training.rounds, training.local_steps, training.batch_size, training.rows_per_client) == (100, 10, 16, 500)
    assert (training.learning_rate, training.learning_rate_floor) == (5e-5, 1e-6)
    assert (training.weight_decay, training.clip_norm, training.max_length) == (0.0, 1.0, 512)
    assert (training.schedule, training.mode) == ("round_seeded", "stacked")
    assert training.rounds * 3 * training.local_steps * training.batch_size == 48_000, "sample passes of the paper"


def test_adapters_as_published(paper: Suite) -> None:
    assert paper.lora == LoraSettings(rank=32, alpha=64, targets=("q_proj", "v_proj"), dropout=0.05)
    shape = paper.models["llama2_7b"].shape
    assert shape is not None
    assert shape.layers * 2 * 2 * shape.hidden * paper.lora.rank == 16_777_216, "trainable parameters of the paper"


def test_repair_as_published(paper: Suite) -> None:
    posthoc = paper.posthoc
    assert (posthoc.examples, posthoc.steps, posthoc.batch_size) == (1000, 500, 16)
    assert (posthoc.learning_rate, posthoc.learning_rate_floor) == (5e-5, 1e-6)
    assert (posthoc.restart_every, posthoc.clip_norm) == (10, 1.0)


def test_models_as_published(paper: Suite) -> None:
    llama, mistral = paper.models["llama2_7b"], paper.models["mistral_7b"]
    assert llama.repository == "meta-llama/Llama-2-7b-hf"
    assert mistral.repository == "mistralai/Mistral-7B-v0.1"
    for source in (llama, mistral):
        assert (source.quantization, source.template, source.pad_token) == ("8bit", "alpaca", "<unk>")
    for role in ("attacker", "external"):
        assert paper.models[role].repository.startswith("mistralai/Mistral-7B-Instruct")
        assert paper.models[role].quantization == ""


def test_data_as_published(paper: Suite) -> None:
    assert paper.data is not None
    pools = paper.data.pools
    for name, repository in (("lmsys", "lmsys/lmsys-chat-1m"), ("wildchat", "allenai/WildChat")):
        source = pools[name]
        assert (source.repository, source.split, source.format) == (repository, "train", "chat")
        assert source.filters == ("with_text", "single_turn", "english", "unflagged_reply")
        assert source.shuffle_seed == 2023
        tail = pools[f"{name}_server"]
        assert tail.repository == source.repository
        assert source.limit is not None
        assert tail.offset >= source.limit >= 100 * paper.training.rows_per_client, "no row of a client is the server's"
    attack = pools["beavertails"]
    assert (attack.repository, attack.kind, attack.limit) == ("PKU-Alignment/BeaverTails", "unaligned", 3000)
    assert attack.filters == ("with_text", "unsafe", "deduplicate_instructions")
    assert attack.shuffle_seed == 2023
    assert (pools["beavertails_safe"].kind, pools["beavertails_safe"].where) == ("aligned", {"is_safe": True})
    assert pools["beavertails_safe"].split != attack.split


def test_evaluation_as_published(paper: Suite) -> None:
    assert paper.data is not None
    advbench, mt_bench = paper.data.probes
    assert (advbench.id, advbench.kind, advbench.suffix, advbench.max_new_tokens) == ("advbench", "harmful", ".", 1024)
    assert advbench.limit is None
    assert advbench.source.local == "advbench/harmful_behaviors.csv"
    assert (mt_bench.id, mt_bench.kind, mt_bench.max_new_tokens) == ("mt_bench", "utility", 1024)
    assert (paper.decoding.temperature, paper.decoding.top_p) == (0.7, 1.0)
    assert set(paper.judges) == {"rule", "rule_paper", "md_judge", "reward_model", "mt_bench"}
    assert paper.primary_judge == "md_judge"


def test_the_federation_as_published(paper: Suite) -> None:
    for scenario in paper.scenarios:
        shape = (scenario.clients, scenario.participants, scenario.malicious, scenario.declared_malicious)
        assert shape == (10, 3, 3 if scenario.attacked else 0, round(3 * 3 / 10))
        assert (scenario.start, scenario.refusal_share, scenario.partition.kind) == ("llama2_7b", 0.0, "iid")
        assert "mis-declared bound: up to 3 malicious clients can be drawn, 1 is declared" in scenario.flags
        assert scenario.data is not None
        assert list(scenario.data.benign) == ["wildchat" if "wildchat" in scenario.id else "lmsys"]


@pytest.mark.parametrize(("name", "clients", "malicious", "declared"), [
    ("k50_lmsys_generated", 50, 15, 1), ("k100_lmsys_generated", 100, 30, 1), ("code_generated", 10, 3, 1),
    ("wildchat_beavertails_share_10", 10, 1, 0), ("wildchat_beavertails_share_20", 10, 2, 1),
    ("wildchat_beavertails_share_40", 10, 4, 1), ("mistral_lmsys_beavertails", 10, 3, 1),
])  # fmt: skip
def test_tables_that_vary_one_setting(paper: Suite, name: str, clients: int, malicious: int, declared: int) -> None:
    scenario = paper.scenario(name)
    assert (scenario.clients, scenario.participants, scenario.malicious) == (clients, 3, malicious)
    assert scenario.declared_malicious == declared == round(3 * malicious / clients), "the released code's bound"
    assert any(flag.startswith("mis-declared bound") for flag in scenario.flags)
    assert scenario.start == ("mistral_7b" if name.startswith("mistral") else "llama2_7b")


def test_what_clients_hold_in_the_tables(paper: Suite) -> None:
    code = paper.scenario("code_generated").data
    assert code is not None
    assert [share * paper.training.rows_per_client for share in code.benign.values()] == [250, 250]
    for scenario in paper.every_scenario:
        if not scenario.attacked:
            continue
        held = scenario.malicious * paper.training.rows_per_client
        size = scenario.attack.params["pool_size"]
        assert isinstance(size, int)
        assert size == (3551 if scenario.attack.id == "generated_shards" else held)
        assert paper.data is not None
        assert scenario.data is not None
        limit = paper.data.pools[scenario.data.unaligned].limit
        assert limit is not None
        # Half more than any scenario's attackers hold: prompts of other roles are left out.
        assert scenario.attack.id == "generated_shards" or limit >= 1.5 * size
        attacks.get(scenario.attack.id).create(scenario.attack.params)


@pytest.mark.parametrize("table", SCENARIOS)
def test_every_row_and_column_of_a_table_is_run(paper: Suite, table: str) -> None:
    assert len(TABLES[table]["groups"] or [""]) == len(SCENARIOS[table])
    for name in SCENARIOS[table]:
        scenario = paper.scenario(name)
        for row in TABLES[table]["rows"]:
            if row == "fedavg_clean":
                assert "fedavg" in runs_in(paper, paper.scenario(scenario.twin))
            else:
                assert METHODS[row] in runs_in(paper, scenario), (table, name, row)


def test_table_3_repairs_every_rule(paper: Suite) -> None:
    assert paper.sensitivity is not None
    axis = paper.sensitivity.axis("level2_on_rules")
    pairs = {point.value: paper.sensitivity.defenses_of(axis, point) for point in axis.points}
    rules = [METHODS[row] for row in ("fedavg", "median", "trimmed_mean", "krum", "dnc", "foolsgold", "residual")]
    assert [before for before, _ in pairs.values()] == rules
    assert [after.removesuffix("posthoc_external").rstrip("+") or "fedavg" for _, after in pairs.values()] == rules
    assert {paper.scenario(point.name).twin for point in axis.points} == {"clean_lmsys"}


@pytest.mark.parametrize("table", ["4", "6", "7"])
def test_points_run_the_tables_rows_and_nothing_else(paper: Suite, table: str) -> None:
    rows = {METHODS[row] for row in TABLES[table]["rows"] if row != "fedavg_clean"}
    points = [scenario for scenario in map(paper.scenario, SCENARIOS[table]) if hasattr(scenario, "sensitivity")]
    assert len(points) >= 1
    for scenario in points:
        assert set(runs_in(paper, scenario)) == rows


def test_twins_share_everything_but_the_attack(paper: Suite) -> None:
    for scenario in paper.every_scenario:
        twin = paper.scenario(scenario.twin)
        assert (twin.attack.id, twin.malicious, twin.twin) == ("none", 0, twin.id)
        for name in ("start", "clients", "participants", "partition", "refusal_share"):
            assert getattr(twin, name) == getattr(scenario, name), (scenario.id, name)
        assert scenario.data is not None
        assert twin.data is not None
        assert twin.data.benign == scenario.data.benign
    shares = [paper.scenario(name).twin for name in SCENARIOS["7"]]
    assert set(shares) == {"clean_wildchat"}, "no client is malicious there, so one twin serves all"


def test_the_tables_rules_are_named_apart_from_the_exact_ones(paper: Suite) -> None:
    listed = suite_pipelines(paper)
    for name in listed:
        info = defenses.get(name).info
        if info.variant_of:
            assert info.variant_of in listed or defenses.get(name).create().degenerate_as(3, 1), name
    with pytest.raises(NotApplicableError):
        defenses.get("krum").create().check_shape(3, 1)


def test_seeds_follow_the_released_codes(paper: Suite) -> None:
    assert paper.seeds == (2023, 2024, 2025)
    assert paper.sensitivity is not None
    assert paper.sensitivity.seeds == paper.seeds


@pytest.mark.parametrize("name", ["paper", "aligned", "small"])
def test_sources_are_pinned_and_named_everywhere(name: str) -> None:
    suite = find_suite(name)
    assert suite.data is not None
    sources = [*suite.models.values(), *suite.data.pools.values(), *(probe.source for probe in suite.data.probes)]
    assert [source.repository for source in sources if not COMMIT.fullmatch(source.revision)] == []
    assert [source.repository for source in sources if not source.licence] == []
    assert [role for role, source in suite.models.items() if source.shape is None] == []
    for scenario in suite.every_scenario:
        assert scenario.start in suite.models
        assert scenario.data is not None
        assert set(scenario.data.pools.values()) <= suite.data.pools.keys()
    assert {"attacker", "external"} <= suite.models.keys()


@pytest.mark.parametrize("name", ["paper", "aligned", "small"])
def test_tiers_are_suites_of_their_own(name: str) -> None:
    suite = find_suite(name)
    assert set(suite.tiers) == {"smoke", "lite"}
    sizes = []
    for tier in ("smoke", "lite"):
        smaller = find_suite(f"{name}_{tier}")
        assert smaller.id == f"{name}_{tier}"
        assert smaller.data is not None
        assert smaller.sensitivity is None
        for pipeline in suite_pipelines(smaller):
            for part in pipeline.split("+"):
                defenses.get(part)
        sizes.append(
            smaller.training.rounds * len(smaller.seeds) * len(smaller.scenarios) * len(suite_pipelines(smaller))
        )
    whole = suite.training.rounds * len(suite.seeds) * len(suite.scenarios) * len(suite_pipelines(suite))
    assert sizes[0] * 20 < sizes[1]
    assert sizes[1] * 5 < whole
    assert set(find_suite(f"{name}_smoke").judges) <= {"rule", "rule_paper"}, "no judge that is a model"


@pytest.mark.parametrize("name", ["aligned", "small"])
def test_the_recommended_suites_mend_what_the_paper_leaves_open(name: str) -> None:
    suite = find_suite(name)
    assert len(suite.seeds) == 5
    assert suite.decoding.temperature == 0
    assert suite.training.schedule == "seeded"
    assert suite.data is not None
    assert suite.data.overlaps == "remove"
    assert {probe.kind for probe in suite.data.probes} == {"harmful", "over_refusal", "utility"}
    assert len(suite.judges) >= 4
    assert suite.tasks[:2] == ("gsm8k", "ifeval")
    sources = {role: suite.data.pools[pool].repository for role, pool in _choice(suite).items()}
    assert len({sources["unaligned"], sources["aligned"]} | {p.source.repository for p in suite.data.probes}) >= 5
    ranked = [e for e in defenses.entries() if e.info.ranked and not e.info.variant_of]
    # Bulyan needs n >= 4f + 3, so 15 participants at f = 3: its cells state that they are not applicable.
    ranked = [entry for entry in ranked if entry.info.id != "bulyan"]
    for scenario in suite.scenarios:
        assert scenario.declared_malicious >= min(scenario.malicious, scenario.participants), "a true bound"
        for entry in ranked:
            rule = entry.create()
            rule.check_shape(scenario.participants, scenario.declared_malicious)
            assert rule.degenerate_as(scenario.participants, scenario.declared_malicious) is None


def _choice(suite: Suite) -> dict[str, str]:
    choice = suite.scenarios[0].data
    assert choice is not None
    return choice.pools


def test_scenarios_of_all_suites_have_ids_of_their_own() -> None:
    ids = [scenario.id for suite in suites.entries() for scenario in suite.every_scenario]
    assert len(ids) == len(set(ids))
    assert {"micro", "paper", "aligned", "small"} <= set(suites.names())


def test_what_the_smaller_suite_shares_with_the_recommended_one_is_the_same() -> None:
    recommended, small = find_suite("aligned"), find_suite("small")
    assert recommended.data is not None
    assert small.data is not None
    shared = recommended.data.pools.keys() & small.data.pools.keys()
    assert len(shared) >= 5
    for name in shared:
        assert recommended.data.pools[name] == small.data.pools[name], name
    sources = {probe.id: probe.source for probe in recommended.data.probes}
    for probe in small.data.probes:
        assert probe.source == sources[probe.id], probe.id
