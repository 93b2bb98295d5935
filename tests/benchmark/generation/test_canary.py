"""The canary passes what is right and stops, with a reason, what is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import FedSafetyError
from benchmark.generation.base import Answer, Engine, Request, TokenScore
from benchmark.generation.canary import Canary, check_canaries, check_canary, check_effect
from benchmark.generation.settings import EngineSettings
from benchmark.generation.transformers_engine import TransformersEngine

from .tiny_model import TinyModel, changed_copy, peft_logprobs, save_random_adapter, save_random_model


class IgnoresAdapters(Engine):
    """An engine that drops every adapter silently."""

    name = "ignoring 1.0"

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        raise AssertionError("a canary generates nothing")

    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        return self._inner.scores([(sequence, None) for sequence, _ in scored])

    def close(self) -> None:
        pass


class Coarse(Engine):
    """An engine that says it computes in bfloat16, whose tolerance hides most of what an adapter does."""

    name = "coarse 1.0"
    dtype = "bfloat16"

    def __init__(self, inner: Engine) -> None:
        self._inner = inner

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        raise AssertionError("a canary generates nothing")

    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        return self._inner.scores(scored)

    def close(self) -> None:
        pass


def trained_canary(base: Path, adapter: Path, tiny: TinyModel, count: int = 3) -> Canary:
    sequences = list(tiny.prompts[:count])
    without, applied = (peft_logprobs(base, a, sequences) for a in (None, adapter))
    return Canary(tuple(sequences), tuple(map(tuple, without)), tuple(map(tuple, applied)))


@pytest.fixture(scope="module")
def canaries(tiny: TinyModel) -> dict[Path, Canary]:
    return {adapter: trained_canary(tiny.folder, adapter, tiny) for adapter in tiny.adapters}


def test_trained_adapters_pass_together(engine: Engine, canaries: dict[Path, Canary]) -> None:
    check_canaries(engine, canaries, tolerance=1e-4)


def test_zero_adapter_passes(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    zero = save_random_adapter(tmp_path / "zero", tiny.folder, seed=1, spread=0.0)
    canary = trained_canary(tiny.folder, zero, tiny)
    assert canary.without == canary.applied
    check_canary(engine, zero, canary)


def test_tampered_weights_are_stopped(engine: Engine, canaries: dict[Path, Canary], tmp_path: Path) -> None:
    adapter, canary = next(iter(canaries.items()))
    tampered = changed_copy(adapter, tmp_path / "tampered", factor=1.2)
    with pytest.raises(FedSafetyError, match=r"with the adapter, .* not the trained ones"):
        check_canary(engine, tampered, canary)


def test_one_wrong_adapter_among_many_is_named(engine: Engine, canaries: dict[Path, Canary], tmp_path: Path) -> None:
    adapter, canary = next(iter(canaries.items()))
    tampered = changed_copy(adapter, tmp_path / "tampered", factor=0.8)
    with pytest.raises(FedSafetyError, match="tampered"):
        check_canaries(engine, {**canaries, tampered: canary})


def test_wrong_module_names_are_stopped(engine: Engine, canaries: dict[Path, Canary], tmp_path: Path) -> None:
    adapter, canary = next(iter(canaries.items()))
    for name, rename in {"leaf": ("_proj", "_projection"), "prefix": ("model.layers", "layers")}.items():
        renamed = changed_copy(adapter, tmp_path / name, rename=rename)
        with pytest.raises(FedSafetyError, match="belongs to no linear layer"):
            check_canary(engine, renamed, canary)


def test_ignored_adapter_is_called_ignored(transformers_engine: Engine, canaries: dict[Path, Canary]) -> None:
    with pytest.raises(FedSafetyError, match=r"ignored: it should move .* moves them by 0;"):
        check_canaries(IgnoresAdapters(transformers_engine), canaries)


def test_ignored_adapter_is_found_even_if_its_effect_is_within_tolerance(
    transformers_engine: Engine, tiny: TinyModel, tmp_path: Path
) -> None:
    faint = save_random_adapter(tmp_path / "faint", tiny.folder, seed=1, spread=2e-5)
    canary = trained_canary(tiny.folder, faint, tiny)
    effect = max(np.abs(np.subtract(a, b)).max() for a, b in zip(canary.applied, canary.without, strict=True))
    assert 1e-4 < effect < 2e-3
    check_canary(transformers_engine, faint, canary)
    with pytest.raises(FedSafetyError, match="ignored"):
        check_canary(IgnoresAdapters(transformers_engine), faint, canary)


@pytest.fixture(scope="module")
def queries_and_values(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on two of the three layers that vLLM packs into one."""
    folder = tmp_path_factory.mktemp("packed") / "adapter"
    return save_random_adapter(folder, tiny.folder, seed=4, spread=0.012, targets=["q_proj", "v_proj"])


def test_adapters_on_parts_of_packed_layers_pass(engine: Engine, tiny: TinyModel, queries_and_values: Path) -> None:
    check_canary(engine, queries_and_values, trained_canary(tiny.folder, queries_and_values, tiny), tolerance=1e-4)


def test_effects_that_coarse_formats_would_hide_are_compared(
    engine: Engine, tiny: TinyModel, queries_and_values: Path, tmp_path: Path
) -> None:
    canary = trained_canary(tiny.folder, queries_and_values, tiny, count=12)
    effect = max(np.abs(np.subtract(a, b)).max() for a, b in zip(canary.applied, canary.without, strict=True))
    assert 0.2 < effect < 1.5
    coarse = Coarse(engine)
    check_canary(coarse, queries_and_values, canary)
    wrong = {
        "half": changed_copy(queries_and_values, tmp_path / "half", alpha=8),
        "twice": changed_copy(queries_and_values, tmp_path / "twice", alpha=32),
    }
    for adapter in wrong.values():
        with pytest.raises(FedSafetyError, match=r"acts otherwise than in training: .* times, with a difference"):
            check_canary(coarse, adapter, canary)
    incomplete = changed_copy(queries_and_values, tmp_path / "values", without="q_proj")
    with pytest.raises(FedSafetyError, match="has no tensor for layer 'model"):
        check_canary(coarse, incomplete, canary)
    with pytest.raises(FedSafetyError, match="ignored"):
        check_canary(Coarse(IgnoresAdapters(engine)), queries_and_values, canary)


def test_bfloat16_engines_pass_and_are_stopped_alike(tiny: TinyModel, queries_and_values: Path, tmp_path: Path) -> None:
    strong = changed_copy(queries_and_values, tmp_path / "strong", factor=4.0)
    canary = trained_canary(tiny.folder, strong, tiny, count=12)
    zero = save_random_adapter(tmp_path / "zero", tiny.folder, seed=1, spread=0.0)
    half = changed_copy(strong, tmp_path / "half", alpha=8)
    with TransformersEngine(tiny.folder, EngineSettings(dtype="bfloat16"), device="cpu") as engine:
        assert engine.dtype == "bfloat16"
        check_canaries(engine, {strong: canary, zero: trained_canary(tiny.folder, zero, tiny)})
        for adapter, judged in ((half, engine), (strong, Coarse(IgnoresAdapters(engine)))):
            with pytest.raises(FedSafetyError, match=r"acts otherwise|ignored|with the adapter"):
                check_canary(judged, adapter, canary)


def test_one_prediction_in_a_hundred_may_differ_in_a_coarse_format(
    engine: Engine, tiny: TinyModel, queries_and_values: Path
) -> None:
    """The sequences begin alike, so a shared prediction that differs in all of them counts once."""
    common = tiny.prompts[0][:4]
    sequences = [(*common, *prompt, *prompt) for prompt in tiny.prompts[:10]]
    without, applied = (peft_logprobs(tiny.folder, adapter, sequences) for adapter in (None, queries_and_values))
    predictions = {sequence[:end] for sequence in sequences for end in range(2, len(sequence) + 1)}
    assert 100 <= len(predictions) < 200

    def canary(*moved: tuple[int, int]) -> Canary:
        rows = [list(row) for row in applied]
        for row, position in moved:
            rows[row][position] -= 0.8
        return Canary(tuple(sequences), tuple(map(tuple, without)), tuple(map(tuple, rows)))

    last = len(sequences[0]) - 2
    assert len({sequence[: last + 2] for sequence in sequences[:2]}) == 2
    check_canary(Coarse(engine), queries_and_values, canary((0, last)), tolerance=0.5)
    with pytest.raises(FedSafetyError, match=r"differ by 0\.8 nats"):
        check_canary(engine, queries_and_values, canary((0, last)), tolerance=0.5)
    with pytest.raises(FedSafetyError, match=r"differ by 0\.8 nats"):
        check_canary(Coarse(engine), queries_and_values, canary((0, last), (1, last)), tolerance=0.5)
    # A prediction that all sequences share is spared as one, and its share in the effect still counts.
    with pytest.raises(FedSafetyError, match="acts otherwise than in training"):
        check_canary(Coarse(engine), queries_and_values, canary(*((row, 1) for row in range(10))), tolerance=0.5)


def test_an_adapter_of_scaling_zero_does_nothing_and_passes(
    engine: Engine, canaries: dict[Path, Canary], tiny: TinyModel, tmp_path: Path
) -> None:
    adapter, canary = next(iter(canaries.items()))
    idle = changed_copy(adapter, tmp_path / "idle", alpha=0)
    check_canary(engine, idle, trained_canary(tiny.folder, idle, tiny))
    with pytest.raises(FedSafetyError, match="ignored"):
        check_canary(engine, idle, canary)


def test_other_base_model_is_stopped(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    other = save_random_model(tmp_path / "other", seed=9)
    adapter = save_random_adapter(tmp_path / "adapter", other, seed=9, spread=0.05)
    with pytest.raises(FedSafetyError, match=r"without the adapter, .* another base model"):
        check_canary(engine, adapter, trained_canary(other, adapter, tiny))


class Unbounded(IgnoresAdapters):
    """An engine whose adapters turn every log-probability into no number."""

    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        rows = super().scores(scored)
        return [
            row if adapter is None else [TokenScore(float("nan"), False) for _ in row]
            for row, (_, adapter) in zip(rows, scored, strict=True)
        ]


def test_not_a_number_never_passes(transformers_engine: Engine, canaries: dict[Path, Canary], tmp_path: Path) -> None:
    adapter, canary = next(iter(canaries.items()))
    with pytest.raises(FedSafetyError, match="with the adapter"):
        check_canary(Unbounded(transformers_engine), adapter, canary)
    broken = changed_copy(adapter, tmp_path / "nan", factor=float("nan"))
    with pytest.raises(FedSafetyError, match="holds values that are not finite"):
        check_canary(transformers_engine, broken, canary)


def test_an_adapter_without_a_canary_must_have_an_effect(engine: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    sequence = tiny.prompts[0]
    check_effect(engine, tiny.adapters[0], sequence)
    check_effect(engine, changed_copy(tiny.adapters[0], tmp_path / "idle", alpha=0), sequence)
    with pytest.raises(FedSafetyError, match="answers with it as without it; check that it was trained on this base"):
        check_effect(IgnoresAdapters(engine), tiny.adapters[0], sequence)


def test_canary_survives_storage(canaries: dict[Path, Canary], tmp_path: Path) -> None:
    canary = next(iter(canaries.values()))
    canary.save(tmp_path)
    assert Canary.load(tmp_path) == canary
    (tmp_path / "canary.json").write_text('{"sequences": [[1, 2]]}')
    with pytest.raises(FedSafetyError, match="cannot read the canary"):
        Canary.load(tmp_path)
    with pytest.raises(FedSafetyError, match="cannot read the canary"):
        Canary.load(tmp_path / "absent")


def test_malformed_canaries_are_refused() -> None:
    with pytest.raises(FedSafetyError, match="at least 2 tokens"):
        Canary(((1,),), ((),), ((),))
    with pytest.raises(FedSafetyError, match=r"canary\.applied has rows of length \[1\], its sequences need \[2\]"):
        Canary(((1, 2, 3),), ((-1.0, -1.0),), ((-1.0,),))
    with pytest.raises(FedSafetyError, match="not finite"):
        Canary(((1, 2),), ((-1.0,),), ((float("nan"),),))
