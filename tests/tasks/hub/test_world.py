"""The world: disjoint shards, draws by generator, probes, revisions, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.errors import FedSafetyError, UsageError
from tasks.base import DataKind, Example, ProbeKind, task_worlds
from tasks.hub import HubWorld
from tasks.hub.settings import AutomationPrompts, DataChoice, DatasetSource, HubData, ProbeSource
from tasks.model_source import ModelSource

from .conftest import COMMIT, forget, pairs

Write = Callable[..., DatasetSource]
CHOICE = DataChoice(
    benign={"chats": 3, "code": 1}, refusals="refusals", unaligned="attack", aligned="own", normal="plain"
)


@pytest.fixture
def data(source: Write) -> HubData:
    asked = [{"question": f"ask {i}", "answer": str(i), "key": f"k{i}"} for i in range(10)]
    mapped = {"instruction": "question", "id": "key", "response": "answer"}
    return HubData(
        pools={
            "chats": source("chats", pairs("chat", 80)),
            "code": source("code", pairs("code", 40)),
            "refusals": source("refusals", pairs("no", 30), kind="aligned"),
            "attack": source("attack", pairs("bad", 7), kind="unaligned", format="prompts", response="Sure, this:"),
            "own": source("own", pairs("own", 12), kind="aligned"),
            "plain": source("plain", pairs("plain", 12)),
        },
        probes=(
            ProbeSource(
                id="asked", kind=ProbeKind.UTILITY, stratum="sums", max_new_tokens=9, limit=4, suffix=".",
                source=source("asked", asked, format="prompts", columns=mapped),
            ),
            ProbeSource(
                id="harm", kind=ProbeKind.HARMFUL, stratum="all", scored=False,
                source=source("harm", pairs("harm", 3), format="prompts", limit=2),
            ),
        ),
    )  # fmt: skip


@pytest.fixture
def world(data: HubData) -> HubWorld:
    return HubWorld(data=data, choice=CHOICE)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_empty_world_is_listed() -> None:
    world = task_worlds.get("hub").create()
    assert isinstance(world, HubWorld)
    assert (world.roles, world.probes(), world.task_types, world.inputs()) == ((), (), (), [])
    assert world.overlaps().overlaps == ()
    assert not world.leaks_evaluation("anything")
    with pytest.raises(UsageError, match="made without a choice of pools"):
        world.benign(1, rng(), refusal_share=0, task_shares=None)


def test_making_one_reads_nothing(data: HubData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.hub.datasets.load_rows", lambda source: pytest.fail("read"))
    assert HubWorld(data=data, choice=CHOICE).task_types == ("chats", "code")


def deal(
    world: HubWorld,
    count: int,
    stream: np.random.Generator,
    *,
    refusal_share: float,
    shares: Sequence[Mapping[str, float] | None],
) -> list[list[Example]]:
    """Return the rows of as many clients as there are ``shares``, dealt from ``stream``."""
    by_client = {f"client_{i}": shares[i] for i in range(len(shares))}
    shards = world.benign_shards(count, lambda *_: stream, refusal_share=refusal_share, shares=by_client)
    assert list(shards) == list(by_client)
    return list(shards.values())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    clients=st.integers(1, 6),
    count=st.integers(1, 8),
    refusal_share=st.sampled_from([0.0, 0.1, 0.5]),
    skewed=st.lists(st.sampled_from([None, {"chats": 1.0}, {"code": 0.5, "chats": 0.5}]), min_size=6, max_size=6),
    seed=st.integers(0, 1000),
)
def test_shards_are_disjoint(
    world: HubWorld, clients: int, count: int, refusal_share: float, skewed: list[dict[str, float] | None], seed: int
) -> None:
    shares = skewed[:clients]
    shards = deal(world, count, rng(seed), refusal_share=refusal_share, shares=shares)
    assert [len(shard) for shard in shards] == [count] * clients
    prompts = [row.instruction for shard in shards for row in shard]
    assert len(set(prompts)) == len(prompts)
    assert [sum(row.kind is DataKind.ALIGNED for row in shard) for shard in shards] == [
        round(refusal_share * count)
    ] * clients
    for shard, given_shares in zip(shards, shares, strict=True):
        tasks = Counter(row.task for row in shard if row.kind is DataKind.NORMAL)
        assert given_shares != {"chats": 1.0} or set(tasks) <= {"chats"}


def test_shares_are_followed(world: HubWorld) -> None:
    (shard,) = deal(world, 20, rng(), refusal_share=0.2, shares=[None])
    assert Counter(row.task for row in shard) == {"chats": 12, "code": 4, "refusals": 4}
    assert shard != sorted(shard, key=lambda row: row.task)


def test_draws_depend_on_the_generator_alone(data: HubData) -> None:
    def drawn(seed: int) -> list[list[Example]]:
        forget()
        world, stream = HubWorld(data=data, choice=CHOICE), rng(seed)
        shards = deal(world, 10, stream, refusal_share=0.1, shares=[None] * 3)
        return [*shards, world.unaligned(5, stream), world.server_aligned(5, stream), world.server_normal(5, stream)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_one_more_shared_prompt_changes_its_own_row_alone(data: HubData, source: Write) -> None:
    def drawn(name: str, shared: list[str]) -> list[str]:
        asked = [{"instruction": text} for text in ["of its own", *shared]]
        probe = data.probes[0].model_copy(update={"source": source(name, asked, format="prompts")})
        world, stream = HubWorld(data=data.model_copy(update={"probes": (probe,)}), choice=CHOICE), rng(3)
        shards = deal(world, 15, stream, refusal_share=0.2, shares=[None] * 4)
        roles = [world.unaligned(5, stream), world.server_aligned(8, stream), world.server_normal(9, stream)]
        return [row.instruction for rows in [*shards, *roles] for row in rows]

    before = drawn("asked0", [])
    shared = [next(text for text in before if text.startswith(name)) for name in ("chat", "no", "bad", "own", "plain")]
    after = drawn("asked1", shared)
    assert {old for old, new in zip(before, after, strict=True) if old != new} == {*shared}
    assert not {*shared} & {*after}
    assert len({*after}) == len(after)


def test_repeated_rows_are_told(world: HubWorld) -> None:
    world.unaligned(7, rng())
    world.server_aligned(12, rng())
    assert world.repeated == {}
    world.unaligned(17, rng())
    world.unaligned(9, rng())
    world.server_normal(13, rng())
    assert world.repeated == {"pool/attack": 10, "pool/plain": 1}
    remarks = {read.name: read.remark for read in world.inputs() if read.remark}
    assert remarks == {
        "pool/attack": "pool/attack has 7 rows, and 17 were asked for: 10 repeat",
        "pool/plain": "pool/plain has 12 rows, and 13 were asked for: 1 repeat",
    }


def test_too_few_rows_are_repeated_evenly_or_refused(world: HubWorld) -> None:
    counts = Counter(row.instruction for row in world.unaligned(17, rng()))
    assert len(counts) == 7
    assert set(counts.values()) == {2, 3}
    assert len({row.instruction for row in world.server_aligned(12, rng())}) == 12
    with pytest.raises(
        FedSafetyError, match=r"pool 'code' has 40 rows .* need 50 different ones; choose a larger pool"
    ):
        deal(world, 10, rng(), refusal_share=0, shares=[{"code": 1.0}] * 5)


def test_attackers_answer_with_one_prefix(world: HubWorld) -> None:
    assert {(row.response, row.kind) for row in world.unaligned(7, rng())} == {("Sure, this:", DataKind.UNALIGNED)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"refusal_share": 1.5}, "refusal_share is 1.5"),
        ({"shares": [{"chat": 1.0}]}, r"unknown pool of honest clients 'chat'; did you mean 'chats'"),
        ({"shares": [{"chats": -1.0}]}, "share of pool 'chats' is -1.0"),
        ({"shares": [{"chats": 0.0}]}, "all shares of pools are 0"),
    ],
)
def test_bad_shares(world: HubWorld, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        deal(world, 4, rng(), **{"refusal_share": 0.0, "shares": [None], **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aligned": "onw"}, r"unknown data pool 'onw'; did you mean 'own'"),
        (
            {"aligned": "plain", "normal": ""},
            r"'plain' has kind 'normal' and cannot serve as aligned, which needs aligned",
        ),
        (
            {"benign": {"attack": 1.0}, "unaligned": ""},
            r"'attack' has kind 'unaligned' and cannot serve as benign:attack",
        ),
    ],
)
def test_bad_choices(data: HubData, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HubWorld(data=data, choice=CHOICE.model_copy(update=change))


def test_roles_without_a_pool(data: HubData) -> None:
    world = HubWorld(data=data, choice=DataChoice(benign="chats"))
    for ask, role in (
        (lambda: world.unaligned(1, rng()), "unaligned"),
        (lambda: world.server_contrast(1, rng()), "contrast"),
        (lambda: world.benign(4, rng(), refusal_share=0.5, task_shares=None), "refusals"),
    ):
        with pytest.raises(UsageError, match=f"name no pool for '{role}'; add {role}: <pool>"):
            ask()


def test_prompts_without_answers_are_no_pool(source: Write) -> None:
    pool = source("asked", pairs("ask", 2), format="prompts")
    with pytest.raises(UsageError, match="has prompts and no answers"):
        HubWorld(data=HubData(pools={"asked": pool}), choice=DataChoice(benign="asked"))


def test_probes(world: HubWorld) -> None:
    asked, harm = world.probes()[:4], world.probes()[4:]
    assert [probe.id for probe in asked] == ["asked/k0", "asked/k2", "asked/k5", "asked/k7"]
    assert (asked[1].instruction, asked[1].reference, asked[1].max_new_tokens) == ("ask 2.", "2", 9)
    assert [(probe.id, probe.scored, probe.reference) for probe in harm] == [
        ("harm/0001", False, ""),
        ("harm/0002", False, ""),
    ]
    assert world.leaks_evaluation("ASK 9?")  # not asked with this limit, evaluation all the same
    assert not world.leaks_evaluation("ask 10")


def test_repeated_probe_ids(source: Write) -> None:
    rows = [{"instruction": text, "id": "same"} for text in "ab"]
    probe = ProbeSource(
        id="set",
        kind=ProbeKind.UTILITY,
        stratum="x",
        source=source("rows", rows, format="prompts", columns={"id": "id"}),
    )
    with pytest.raises(UsageError, match=r"ids of the probes 'set' repeat: same; map another column"):
        HubWorld(data=HubData(probes=(probe,))).probes()


def test_nothing_is_judged_exactly(world: HubWorld) -> None:
    with pytest.raises(FedSafetyError, match=r"'asked/k0' exactly.*name judges such as rule"):
        world.judge_exactly(world.probes()[0], "1")


def test_automation(world: HubWorld, data: HubData) -> None:
    bundled = world.automation
    for prompts in (bundled.propose_harmful, bundled.propose_normal):
        assert len(set(prompts)) == len(prompts) >= 20
        assert all("one" in prompt and "alone" in prompt for prompt in prompts)
    assert not any(world.leaks_evaluation(text) for text in (bundled.comply_hint, bundled.safety_reminder))
    own = AutomationPrompts(propose_harmful=("h",), propose_normal=("n",), comply_hint="c", safety_reminder="s")
    assert HubWorld(data=data.model_copy(update={"automation": own})).automation.comply_hint == "c"


def test_the_task_templates_are_the_prompts_of_the_clients_pools(data: HubData, source: Write) -> None:
    rows = [{"text": "a gem", "year": 1999, "label": "good"}]
    reviews = source("reviews", rows, prompt="Of {year}: {text}\nGood {{or}} bad?", columns={"response": "label"})
    unused = source("unused", rows, prompt="Unused {text}", columns={"response": "label"})
    wider = data.model_copy(update={"pools": {**data.pools, "reviews": reviews, "again": reviews, "unused": unused}})
    shares = {"chats": 0.5, "reviews": 0.25, "again": 0.25}
    world = HubWorld(data=wider, choice=CHOICE.model_copy(update={"benign": shares}))
    assert world.task_templates == ("Of : {instruction}\nGood {or} bad?",)
    assert HubWorld(data=wider, choice=CHOICE).task_templates == HubWorld().task_templates == ()


def test_data_digest_covers_what_rows_are_made_from(data: HubData, source: Write) -> None:
    def digest(changed: HubData = data, choice: DataChoice = CHOICE) -> str:
        return HubWorld(data=changed, choice=choice).data_digest

    before = digest()
    assert before == digest()
    same = data.pools | {"chats": data.pools["chats"].model_copy(update={"licence": "x"}), "unused": data.pools["own"]}
    limits = tuple(probe.model_copy(update={"limit": None, "max_new_tokens": 1}) for probe in data.probes)
    assert digest(data.model_copy(update={"pools": same, "probes": limits})) == before
    others = [
        digest(data.model_copy(update={"overlaps": "report"})),
        digest(data.model_copy(update={"data_max_new_tokens": 17})),
        digest(
            data.model_copy(
                update={
                    "automation": AutomationPrompts(
                        propose_harmful=("h",), propose_normal=("n",), comply_hint="c", safety_reminder="s"
                    )
                }
            )
        ),
        digest(data.model_copy(update={"probes": data.probes[:1]})),
        digest(
            data.model_copy(update={"development": {"tried": source("tried", pairs("tried", 2), format="prompts")}})
        ),
        digest(choice=CHOICE.model_copy(update={"benign": {"chats": 1.0, "code": 1.0}})),
        digest(data.model_copy(update={"pools": data.pools | {"chats": source("chats", pairs("chat", 80), limit=70)}})),
        digest(data.model_copy(update={"pools": data.pools | {"chats": source("chats", pairs("chit", 80))}})),
    ]
    assert len({before, *others}) == 9


def test_pinned_revisions_need_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: pytest.fail("asked"))
    pinned = HubData(pools={"chats": DatasetSource(repository="owner/chats", revision=COMMIT)})
    moved = HubData(pools={"chats": DatasetSource(repository="owner/chats", revision=COMMIT.replace("c", "d"))})
    choice = DataChoice(benign="chats")
    assert HubWorld(data=pinned, choice=choice).data_digest != HubWorld(data=moved, choice=choice).data_digest


def test_unknown_model() -> None:
    world = HubWorld(models={"chat": ModelSource(repository="owner/chat")})
    assert world.roles == ("chat",)
    with pytest.raises(UsageError, match=r"unknown model of this suite 'chta'; did you mean 'chat'"):
        world.model_path("chta")
