"""The server's tools work as they say, and everything that is used through them is counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import FedSafetyError
from benchmark.records.adapters import Usage
from benchmark.suites.alignment import AlignmentSettings
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import PosthocSettings, TrainingSettings
from benchmark.training.served import ModelSpec, ServedModel
from benchmark.training.server import MeteredServer
from tasks.base import DataKind, Example, TaskWorld

SETTINGS = PosthocSettings(examples=6, steps=4, batch_size=3, learning_rate=1e-2)


@pytest.fixture
def make(world: TaskWorld, served: ServedModel) -> Any:
    def server(owner: str = "mine", seed: int = 11) -> MeteredServer:
        return MeteredServer(world, served, lambda: served, SETTINGS, seed, owner, max_new_tokens=5)

    return server


def used(server: MeteredServer) -> dict[str, float]:
    return {name: value for name, value in asdict(server.usage).items() if value}


def test_owned_rows_are_counted_and_shared_by_all_defenses(make: Any) -> None:
    server = make()
    aligned, normal = server.owned_aligned(3), server.owned_normal(4)
    assert [row.kind for row in aligned + normal] == [DataKind.ALIGNED] * 3 + [DataKind.NORMAL] * 4
    assert used(server) == {"owned_aligned": 3, "owned_normal": 4}
    assert make("other").owned_aligned(3) == aligned
    assert make(seed=12).owned_aligned(3) != aligned


def test_owned_rows_count_once_however_often_a_method_asks(make: Any) -> None:
    server = make()
    for count in (2, 4, 3, 4):
        server.owned_aligned(count)
        server.owned_normal(3)
    aligned, normal = server.owned_aligned(4), server.owned_normal(3)
    assert used(server) == {"owned_aligned": 4, "owned_normal": 3}
    server.gradient(torch.zeros(server.layout.dimension), aligned + normal)
    assert "generated_pairs" not in used(server), "the server owns the rows"


def test_a_row_that_a_pool_repeats_counts_each_time(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, [row] = make(), make().owned_normal(1)
    monkeypatch.setattr(server._world, "server_normal", lambda count, rng: [row] * count, raising=False)
    for count in (5, 5, 7, 2):
        assert len(server.owned_normal(count)) == count
    assert used(server) == {"owned_normal": 7}


def test_generated_tokens_are_counted_and_the_adapter_is_detached(make: Any, served: ServedModel) -> None:
    server = make()
    adapter = torch.randn(server.layout.dimension, generator=torch.Generator().manual_seed(0))
    plain = server.generate(["w1", "w2 w3"], adapter=None, temperature=0.0)
    tokens = server.usage.generated_tokens
    assert tokens == sum(len(text.split()) for text in plain) > 0
    adapted = server.generate(["w1", "w2 w3"], adapter=adapter, temperature=0.0)
    assert adapted != plain
    assert all(layer.factor_a is None for layer in served.stacked._layers)
    assert server.usage.generated_tokens == tokens + sum(len(text.split()) for text in adapted)
    assert used(server).keys() == {"generated_tokens"}


def test_the_external_model_counts_once(make: Any) -> None:
    server = make()
    for _ in range(2):
        assert len(server.generate_external(["w1"], temperature=1.0)) == 1
    assert server.usage.extra_models == 1


def test_the_model_before_the_alignment_is_lent_and_counts_once(
    make: Any, world: TaskWorld, served: ServedModel, checkpoints: Path
) -> None:
    lent: list[str] = []
    unaligned = ModelSpec(checkpoints / "raw", LoraSettings(rank=2, alpha=4))

    @contextlib.contextmanager
    def lend() -> Iterator[Callable[[], ServedModel]]:
        lent.append("open")
        yield unaligned.load
        lent.append("closed")

    prompts = ["w1", "w2 w3", "w4 w5"]
    bare = make()
    assert bare.generate_unaligned(prompts, temperature=0.0) == bare.generate(prompts, adapter=None, temperature=0.0)
    assert (bare.usage.extra_models, bare.opened) == (0, set())
    server = MeteredServer(world, served, lambda: served, SETTINGS, 11, "mine", max_new_tokens=5, unaligned=lend)
    answers = server.generate_unaligned(prompts, temperature=0.0)
    assert server.generate_unaligned(prompts, temperature=0.0) == answers
    assert bare.generate_unaligned(prompts, temperature=0.0) != answers
    assert lent == ["open", "closed"] * 2
    assert (server.usage.extra_models, server.opened) == (1, {"unaligned"})
    assert server.usage.generated_tokens == 2 * sum(len(text.split()) for text in answers)
    server.generate_external(["w1"], temperature=0.0)
    assert server.usage.extra_models == 2


def test_the_bare_start_model_answers_where_an_adapter_aligns_it(world: TaskWorld, served: ServedModel) -> None:
    start = torch.randn(served.stacked.layout.dimension, generator=torch.Generator().manual_seed(4))
    settings = AlignmentSettings(
        start="raw", data={"w8": 1.0}, rows=4, steps=2, batch_size=2, learning_rate=1e-2, seed=3
    )
    server = MeteredServer(world, served, lambda: served, SETTINGS, 11, "mine", 5, None, lambda: start, settings)
    prompts = ["w1", "w2 w3"]
    bare = server.generate(prompts, adapter=torch.zeros_like(start), temperature=0.0)
    assert server.generate_unaligned(prompts, temperature=0.0) == bare
    assert bare != server.generate(prompts, adapter=None, temperature=0.0)


def test_draws_come_from_the_defenses_own_stream(make: Any) -> None:
    prompts = ["w1", "w2", "w3", "w4"]
    first = make().generate(prompts, adapter=None, temperature=1.0)
    assert make().generate(prompts, adapter=None, temperature=1.0) == first
    assert make("other").generate(prompts, adapter=None, temperature=1.0) != first
    server = make()
    assert server.generate(prompts, adapter=None, temperature=1.0) == first
    assert server.generate(prompts, adapter=None, temperature=1.0) != first
    rows = [Example(f"w{i}", "w1", DataKind.NORMAL, "w1") for i in range(30)]
    assert sorted(make().shuffle(rows), key=rows.index) == rows
    assert make().shuffle(rows) == make().shuffle(rows) != make("other").shuffle(rows)


def test_finetuning_learns_its_rows_and_counts_what_was_generated(make: Any, served: ServedModel) -> None:
    server = make()
    # What the server did not hand out counts as generated, whatever the defense calls it.
    rows = [
        Example("w1", "w5 w6", DataKind.ALIGNED, "generated"),
        Example("w2", "w30", DataKind.ALIGNED, "owned"),
        *server.owned_normal(1),
    ]
    start = torch.zeros(server.layout.dimension)
    for name, view in server.layout.views(start).items():
        if name.endswith("lora_A"):
            view.copy_(torch.randn(view.shape, generator=torch.Generator().manual_seed(0)))
    tuned = server.finetune(start, rows)
    assert used(server) == {"owned_normal": 1, "generated_pairs": 2, "generated_leaks": 1, "finetune_steps": 4}
    assert torch.equal(tuned, make().finetune(start, rows))
    assert not torch.equal(tuned, make("other").finetune(start, rows))

    def loss(adapter: torch.Tensor) -> float:
        served.stacked.attach(adapter)
        total = 0.0
        for row in map(served.chat.row, rows):
            total -= sum(served.stacked.logprobs([row.ids])[0][row.response_start - 1 :])
        served.stacked.clear()
        return total

    assert loss(tuned) < loss(start)


TRAINING = TrainingSettings(
    rounds=3,
    local_steps=2,
    batch_size=4,
    rows_per_client=8,
    learning_rate=2e-2,
    learning_rate_floor=1e-2,
    weight_decay=0.5,
    clip_norm=0.01,
)


def training_server(world: TaskWorld, served: ServedModel, **changes: Any) -> MeteredServer:
    training = TRAINING.model_copy(update=changes)
    return MeteredServer(world, served, lambda: served, SETTINGS, 11, "mine", 5, training=training)


def test_the_server_trains_as_a_client_of_the_round(world: TaskWorld, served: ServedModel) -> None:
    """With a single row every step has the row four times, whatever the order."""
    server = training_server(world, served)
    [example] = server.owned_normal(1)
    start = 0.1 * torch.randn(server.layout.dimension, generator=torch.Generator().manual_seed(0))
    row = served.chat.row(example)
    for index, rate in enumerate((2e-2, 1.5e-2, 1e-2)):
        expected = served.stacked.train(
            start, [[[row] * 4] * 2], learning_rate=rate, weight_decay=0.5, clip_norm=0.01, dropout_seed=0
        ).adapters[0]
        torch.testing.assert_close(server.train_as_client(start, [example], index), expected)
    assert used(server) == {"owned_normal": 1, "finetune_steps": 6}


def test_every_training_as_a_client_draws_anew_and_repeatably(world: TaskWorld, served: ServedModel) -> None:
    server, other = (training_server(world, served) for _ in range(2))
    rows, start = server.owned_normal(6), torch.zeros(server.layout.dimension)
    start += 0.1 * torch.randn(server.layout.dimension, generator=torch.Generator().manual_seed(0))
    first, second = (server.train_as_client(start, rows, 0) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(other.train_as_client(start, rows, 0), first)
    assert used(other) == {"finetune_steps": 2, "generated_pairs": len(rows)}, "the other server handed out no row"


def test_a_training_as_a_client_that_is_not_possible_is_refused(
    make: Any, world: TaskWorld, served: ServedModel
) -> None:
    server = training_server(world, served)
    rows, start = server.owned_normal(1), torch.zeros(server.layout.dimension)
    for index in (-1, 3):
        with pytest.raises(FedSafetyError, match=f"'mine' trains as a client of round {index}, and the 3 rounds"):
            server.train_as_client(start, rows, index)
    with pytest.raises(FedSafetyError, match=r"'mine' called train_as_client\(\) with no example"):
        server.train_as_client(start, [], 0)
    with pytest.raises(FedSafetyError, match="without the settings of the clients' training"):
        make().train_as_client(start, rows, 0)
    assert used(server) == {"owned_normal": 1}


def test_finetuning_on_nothing_is_refused(make: Any) -> None:
    with pytest.raises(FedSafetyError, match="'mine' called finetune\\(\\) with no example"):
        make().finetune(torch.zeros(make().layout.dimension), [])


def test_usage_adds_up() -> None:
    a, b = Usage(owned_aligned=1, server_seconds=0.5), Usage(owned_aligned=2, generated_tokens=7, server_seconds=1.0)
    assert a.plus(b) == Usage(owned_aligned=3, generated_tokens=7, server_seconds=1.5)


def test_a_gradient_is_that_of_the_mean_token_loss(make: Any, served: ServedModel) -> None:
    server = make()
    rows = server.owned_aligned(2) + server.owned_normal(1)
    adapter = 0.1 * torch.randn(server.layout.dimension, generator=torch.Generator().manual_seed(0))
    gradient, loss = server.gradient(adapter, rows)

    def mean_loss(at: torch.Tensor) -> float:
        served.stacked.attach(at)
        tokens = [served.chat.row(row) for row in rows]
        losses = [-p for row in tokens for p in served.stacked.logprobs([row.ids])[0][-len(row.predicted) :]]
        served.stacked.clear()
        return sum(losses) / len(losses)

    assert loss == pytest.approx(mean_loss(adapter), rel=1e-5)
    direction = gradient / gradient.norm()
    step = 1e-3
    slope = (mean_loss(adapter + step * direction) - mean_loss(adapter - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(gradient.norm()), rel=1e-2)
    assert all(layer.factor_a is None for layer in served.stacked._layers)
    assert used(server) == {"owned_aligned": 2, "owned_normal": 1, "finetune_steps": 1}
    with pytest.raises(FedSafetyError, match=r"'mine' called gradient\(\) with no example"):
        server.gradient(adapter, [])
    with pytest.raises(FedSafetyError, match=r"the gradient for 'mine' is not finite"):
        server.gradient(torch.full_like(adapter, float("nan")), rows)
