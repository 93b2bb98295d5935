"""A step that is divided, computed again on the way back or cut short by full memory ends where a whole one does."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from benchmark.errors import FedSafetyError, UsageError
from benchmark.models import head as token_loss
from benchmark.models.loading import recomputing
from benchmark.models.lora import target_layers
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.dropout import DropoutRow, RowDropout
from benchmark.training.objective import Terms
from benchmark.training.sequential import SequentialModel
from benchmark.training.stacked import LocalTraining, StackedModel
from tests.benchmark.tiny_models import CONFIGS, make_batches, make_model, start_adapter

SETTINGS = LoraSettings(rank=4, alpha=8)
DROPPING = LoraSettings(rank=4, alpha=8, dropout=0.2)
EVERY_ROW_ALONE = 1

every_architecture = pytest.mark.parametrize("architecture", sorted(CONFIGS))


def train(
    memory_bytes: int | None,
    batches: list[list[list[TokenRow]]],
    *,
    architecture: str = "llama",
    settings: LoraSettings = SETTINGS,
    checkpointing: bool = False,
    dtype: torch.dtype = torch.float64,
) -> LocalTraining:
    model = make_model(architecture, dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    start = start_adapter(model, settings, torch.float64 if dtype == torch.float64 else torch.float32)
    stacked = StackedModel(model, settings, pad_id=0, memory_bytes=memory_bytes)
    return stacked.train(start, batches, learning_rate=4e-3, clip_norm=0.5, dropout_seed=3)


def assert_equal(one: LocalTraining, two: LocalTraining) -> None:
    torch.testing.assert_close(one.adapters, two.adapters, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.losses, two.losses, rtol=0, atol=1e-9)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The shape of the rows of every pass."""
    seen: list[tuple[int, int]] = []
    whole = StackedModel._token_losses

    def counted(self: StackedModel, ids: Tensor, *rest: object) -> Tensor:
        seen.append((ids.shape[0], ids.shape[1]))
        return whole(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(StackedModel, "_token_losses", counted)
    return seen


@every_architecture
@pytest.mark.parametrize("settings", [SETTINGS, DROPPING], ids=["plain", "dropout"])
def test_any_memory_budget_gives_the_same_result(
    architecture: str, settings: LoraSettings, passes: list[tuple[int, int]]
) -> None:
    batches = make_batches(clients=3, steps=2, rows=4)
    whole = train(None, batches, architecture=architecture, settings=settings)
    assert len(passes) == 2
    for budget in (400_000, EVERY_ROW_ALONE):
        passes.clear()
        assert_equal(train(budget, batches, architecture=architecture, settings=settings), whole)
        assert len(passes) > 2
    assert len(passes) == 2 * 3 * 4


def test_long_rows_are_divided_by_length(passes: list[tuple[int, int]]) -> None:
    batches = make_batches(clients=2, steps=1, rows=6, shortest=20, longest=300)
    model = make_model("llama")
    start = start_adapter(model, SETTINGS)
    divided = StackedModel(model, SETTINGS, pad_id=0).train(start, batches, learning_rate=4e-3)
    assert len(passes) > 1
    assert sum(rows for rows, _ in passes) == 12
    alone = SequentialModel(make_model("llama"), SETTINGS, pad_id=0).train(start, batches, learning_rate=4e-3)
    # AdamW divides by the gradient's size, which enlarges the rounding of a gradient that is nearly zero.
    torch.testing.assert_close(divided.adapters, alone.adapters, rtol=0, atol=1e-7)
    torch.testing.assert_close(divided.losses, alone.losses, rtol=0, atol=1e-9)


def test_what_is_dropped_follows_its_seed_and_nothing_else() -> None:
    batches = make_batches(clients=3, steps=2, rows=2)
    model = make_model("llama")
    start = start_adapter(model, DROPPING)
    stacked = StackedModel(model, DROPPING, pad_id=0)

    def adapters(rows: list[list[list[TokenRow]]], seed: int | list[int]) -> Tensor:
        return stacked.train(start, rows, learning_rate=4e-3, dropout_seed=seed).adapters

    together = adapters(batches, [11, 12, 13])
    for client, seed in enumerate((11, 12, 13)):
        torch.testing.assert_close(adapters([batches[client]], [seed])[0], together[client], rtol=0, atol=1e-9)
    assert torch.equal(adapters(batches, 5), adapters(batches, 5))
    assert (adapters(batches, 5) - adapters(batches, 6)).abs().max() > 1e-4
    same_rows = adapters([batches[0], batches[0]], 5)
    assert (same_rows[0] - same_rows[1]).abs().max() > 1e-4


def test_dropout_needs_a_seed_for_every_client() -> None:
    model = make_model("llama")
    start = start_adapter(model, DROPPING)
    stacked = StackedModel(model, DROPPING, pad_id=0)
    batches = make_batches(clients=3, steps=1, rows=1)
    with pytest.raises(UsageError, match=r"LoRA dropout 0\.2 needs dropout_seed"):
        stacked.train(start, batches, learning_rate=1e-3)
    with pytest.raises(UsageError, match="2 seeds for 3 clients"):
        stacked.train(start, batches, learning_rate=1e-3, dropout_seed=[1, 2])


def test_dropout_keeps_the_inputs_mean_and_leaves_padding_alone() -> None:
    seen = []
    for seed in range(400):
        dropout = RowDropout(0.5, [DropoutRow(seed, step=0, place=place, length=8) for place in range(4)])
        seen.append(dropout.zeroed(torch.ones(4, 10, 3), layer=0) * dropout.scale)
    drawn = torch.stack(seen)
    assert set(drawn[:, :, :8].unique().tolist()) == {0.0, 2.0}
    assert (drawn[:, :, :8].mean(0) - 1).abs().max() < 0.3  # six standard deviations
    assert torch.equal(drawn[:, :, 8:], torch.full((400, 4, 2, 3), 2.0))
    # No two rows, places or features drop the same.
    flat = (drawn[:, :, :8] - 1).permute(1, 2, 3, 0).flatten(0, 2)
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.35


@pytest.mark.parametrize("settings", [SETTINGS, DROPPING], ids=["plain", "dropout"])
@every_architecture
def test_computing_layers_again_changes_nothing(architecture: str, settings: LoraSettings) -> None:
    batches = make_batches(clients=3, steps=2, rows=2)
    whole = train(None, batches, architecture=architecture, settings=settings)
    again = train(None, batches, architecture=architecture, settings=settings, checkpointing=True)
    assert_equal(again, whole)


def test_layers_are_computed_again_in_training_only() -> None:
    model = make_model("llama")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    inner = model.model.layers[0].self_attn
    inner.register_forward_hook(lambda *_: calls.append(1))
    start = start_adapter(model, SETTINGS)
    stacked = StackedModel(model, SETTINGS, pad_id=0)
    calls.clear()
    stacked.train(start, make_batches(clients=1, steps=1, rows=1), learning_rate=1e-3)
    assert len(calls) == 2
    calls.clear()
    stacked.logprobs([[5, 6, 7]])
    assert len(calls) == 1
    with recomputing(model):
        assert model.model.layers[0].training
        assert not inner.training
    assert not model.model.layers[0].training


def test_computing_again_needs_less_memory() -> None:
    def need(checkpointing: bool) -> int:
        model = make_model("llama", attention="sdpa")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return StackedModel(model, SETTINGS, pad_id=0)._memory.need(8, 64)

    # Two layers: both are kept without it; with it their inputs and, for a moment, one layer or so.
    assert need(checkpointing=True) < need(checkpointing=False)


def test_the_need_grows_with_tokens_and_for_explicit_attention_with_their_pairs() -> None:
    fused = StackedModel(make_model("llama", attention="sdpa"), SETTINGS, pad_id=0)._memory
    explicit = StackedModel(make_model("llama"), SETTINGS, pad_id=0)._memory
    assert fused.need(4, 64) == pytest.approx(2 * fused.need(2, 64), rel=1e-6)
    assert fused.need(1, 512) == pytest.approx(8 * fused.need(1, 64), rel=1e-6)
    assert explicit.need(1, 512) > 10 * explicit.need(1, 64)


def full_beyond(tokens: int, monkeypatch: pytest.MonkeyPatch, *, on_the_way_back: bool = False) -> None:
    """Make passes of more than so many tokens fail as a full GPU does."""
    whole = StackedModel._token_losses

    def fail(_: Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def limited(self: StackedModel, ids: Tensor, *rest: object) -> Tensor:
        losses = whole(self, ids, *rest)  # type: ignore[arg-type]
        if ids.numel() > tokens:
            if not on_the_way_back:
                fail(losses)
            factor = self._layers[0].factor_a
            assert factor is not None

            def fail_once(gradient: Tensor) -> None:
                hook.remove()
                fail(gradient)

            hook = factor.register_hook(fail_once)
        return losses

    monkeypatch.setattr(StackedModel, "_token_losses", limited)


def test_a_step_that_does_not_fit_is_tried_again_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_batches(clients=3, steps=3, rows=4)
    whole = train(None, batches)
    full_beyond(60, monkeypatch)
    assert_equal(train(None, batches), whole)


def test_a_gradient_cut_short_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_batches(clients=2, steps=1, rows=2)
    whole = train(None, batches)
    model = make_model("llama")
    start = start_adapter(model, SETTINGS)
    stacked = StackedModel(model, SETTINGS, pad_id=0)
    inner = StackedModel._losses
    failed: list[int] = []

    def fails_once(self: StackedModel, rows: list[list[TokenRow]], counts: list[int], terms: Terms) -> Tensor | None:
        losses = inner(self, rows, counts, terms)
        if not failed:
            failed.append(1)
            assert losses is not None
            losses.sum().backward()  # the gradient is there, then memory runs out
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return losses

    monkeypatch.setattr(StackedModel, "_losses", fails_once)
    found = stacked.train(start, batches, learning_rate=4e-3, clip_norm=0.5)
    assert failed
    assert_equal(found, whole)


def test_a_row_that_does_not_fit_is_told_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    full_beyond(3, monkeypatch)
    with pytest.raises(FedSafetyError, match=r"one row of \d+ tokens needs about \d+\.\d [GM]iB.*max_length"):
        train(None, make_batches(clients=2, steps=1, rows=2))


def test_other_errors_are_not_taken_for_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(StackedModel, "_token_losses", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(None, make_batches(clients=2, steps=1, rows=2))


@pytest.mark.parametrize("budget", [None, EVERY_ROW_ALONE])
@pytest.mark.parametrize("start", [7, 8, 100])
def test_rows_without_loss_add_nothing(budget: int | None, start: int) -> None:
    batches = make_batches(clients=2, steps=2, rows=2)
    cut = TokenRow((5, 6, 7, 8, 9, 10, 11), start)
    expected = train(None, batches)
    longer = [[[*rows, cut] for rows in client] for client in batches]
    assert_equal(train(budget, longer), expected)


@pytest.mark.parametrize("budget", [None, EVERY_ROW_ALONE])
def test_a_client_without_any_loss_stays_where_it_is(budget: int | None) -> None:
    silent = TokenRow((5, 6, 7), 3)
    batches = [[[silent, silent]], make_batches(clients=1, steps=1, rows=2)[0], [[silent, silent]]]
    model = make_model("llama")
    start = start_adapter(model, SETTINGS)
    alone = SequentialModel(make_model("llama"), SETTINGS, pad_id=0).train(start, batches, learning_rate=4e-3)
    found = StackedModel(model, SETTINGS, pad_id=0, memory_bytes=budget).train(start, batches, learning_rate=4e-3)
    assert_equal(found, alone)
    assert torch.equal(found.adapters[0], start)
    assert found.losses[0] == 0
    nobody = StackedModel(make_model("llama"), SETTINGS, pad_id=0).train(start, batches[:1], learning_rate=4e-3)
    assert torch.equal(nobody.adapters[0], start)


def test_clients_with_unequal_rows_are_refused() -> None:
    batches = make_batches(clients=2, steps=1, rows=2)
    batches[1][0].pop()
    with pytest.raises(FedSafetyError, match="equally many rows"):
        train(None, batches)


@pytest.mark.parametrize("architecture", ["llama", "phi"])
def test_logits_in_parts_give_the_same_training(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = make_batches(clients=2, steps=2, rows=3)
    whole = train(None, batches, architecture=architecture)
    monkeypatch.setattr(token_loss, "_LOGITS", 5 * 97)
    assert_equal(train(None, batches, architecture=architecture), whole)


@every_architecture
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_trains_float32_factors(architecture: str, dtype: torch.dtype) -> None:
    batches = make_batches(clients=2, steps=4, rows=4)
    exact = train(None, batches, architecture=architecture)
    half = train(None, batches, architecture=architecture, dtype=dtype)
    assert half.adapters.dtype == torch.float32
    start = start_adapter(make_model(architecture), SETTINGS)
    moved, expected = half.adapters.double() - start, exact.adapters - start
    assert torch.cosine_similarity(moved, expected).min() > 0.95
    torch.testing.assert_close(half.losses, exact.losses, rtol=0, atol=0.02)


def test_memory_does_not_grow_with_trainings() -> None:
    model = make_model("llama")
    start = start_adapter(model, DROPPING)
    stacked = StackedModel(model, DROPPING, pad_id=0, memory_bytes=400_000)
    batches = make_batches(clients=3, steps=2, rows=2)

    def tensors() -> int:
        stacked.train(start, batches, learning_rate=1e-3, dropout_seed=1)
        stacked.attach(start)
        stacked.clear()
        gc.collect()
        return sum(isinstance(thing, Tensor) for thing in gc.get_objects())

    first = tensors()
    assert [tensors() for _ in range(3)] == [first] * 3


@pytest.mark.parametrize("on_the_way_back", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_of_a_failed_pass_lives_while_it_is_tried_again(
    on_the_way_back: bool, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = make_batches(clients=2, steps=1, rows=2)
    model = make_model("llama")
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    start = start_adapter(model, SETTINGS)
    stacked = StackedModel(model, SETTINGS, pad_id=0)
    states: list[list[StorageWeakRef]] = []
    alive: list[int] = []
    whole = StackedModel._token_losses

    def watched(self: StackedModel, ids: Tensor, *rest: object) -> Tensor:
        alive.append(sum(not state.expired() for held in states for state in held))
        states.append([])
        return whole(self, ids, *rest)  # type: ignore[arg-type]

    def note(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        del module, inputs
        if states:
            states[-1].append(StorageWeakRef(output.untyped_storage()))

    monkeypatch.setattr(StackedModel, "_token_losses", watched)
    full_beyond(20, monkeypatch, on_the_way_back=on_the_way_back)
    for layer in stacked._layers:
        layer.register_forward_hook(note)
    gc.disable()  # what only the collector frees would be there when memory is short
    try:
        stacked.train(start, batches, learning_rate=4e-3)
    finally:
        gc.enable()
    assert len(alive) > 2
    assert all(len(held) >= len(stacked._layers) for held in states)
    assert alive == [0] * len(alive)


def test_what_full_memory_taught_holds_for_the_next_training(
    monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, int]]
) -> None:
    batches = make_batches(clients=3, steps=1, rows=4)
    model = make_model("llama")
    start = start_adapter(model, SETTINGS)
    stacked = StackedModel(model, SETTINGS, pad_id=0)
    full_beyond(60, monkeypatch)
    once = stacked.train(start, batches, learning_rate=4e-3)
    assert max(rows * width for rows, width in passes) > 60
    passes.clear()
    again = stacked.train(start, batches, learning_rate=4e-3)
    assert max(rows * width for rows, width in passes) <= 60
    assert_equal(again, once)


def test_the_need_counts_what_dropout_keeps() -> None:
    def of_a_token(settings: LoraSettings) -> float:
        model = make_model("llama", attention="sdpa")
        start = start_adapter(model, settings)
        stacked = StackedModel(model, settings, pad_id=0)
        stacked._load(start[None], trainable=True)
        memory = stacked._memory
        return (memory.need(1, 512) - memory.need(1, 256)) / 256

    model = make_model("llama")
    inputs = [layer.in_features for layer in target_layers(model, DROPPING).values()]
    # A mask, one byte, and of the masked input, in float64, at least what plain layers do not share.
    assert of_a_token(DROPPING) - of_a_token(SETTINGS) >= sum(inputs)
    assert of_a_token(DROPPING) - of_a_token(SETTINGS) <= 9 * sum(inputs) * (1 + 3 / 2)
