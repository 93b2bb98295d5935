"""Lean passes train what plain passes train, keep clients apart, and replace nothing that computes something else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmark.models import head as losses
from benchmark.models import products
from benchmark.models.head import token_losses, token_losses_in_place
from benchmark.models.sizes import scored_share, trains_lean
from benchmark.suites.settings import LoraSettings
from benchmark.training import attention
from benchmark.training.attention import NAME
from benchmark.training.layers import GatedFeedForward
from benchmark.training.lean import make_lean
from benchmark.training.norms import FrozenNorm
from benchmark.training.sequential import SequentialModel
from benchmark.training.stacked import LocalTraining, StackedModel
from tests.benchmark.tiny_models import CONFIGS, make_batches, make_model, start_adapter

SETTINGS = LoraSettings(rank=4, alpha=8, targets="all-linear")
LATE = LoraSettings(rank=4, alpha=8, targets=("o_proj", "up_proj"))
DROPPING = LoraSettings(rank=4, alpha=8, targets="all-linear", dropout=0.3)
OPTIONS: dict[str, Any] = {
    "learning_rate": [4e-3, 3e-3, 2e-3],
    "clip_norm": 1.0,
    "weight_decay": 0.01,
    "dropout_seed": 5,
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide rows, queries and logits of tiny models as large ones are divided."""
    monkeypatch.setattr(attention, "ATTENTION_BLOCK", 6)
    monkeypatch.setattr(attention, "ATTENTION_SCORES", 200)
    monkeypatch.setattr(losses, "_REPLACED_LOGITS", 11 * 97)
    monkeypatch.setattr(losses, "_WIDE_LOGITS", 3 * 97)
    monkeypatch.setattr(losses, "_EVEN_ROWS", 2)


def assert_equal(one: LocalTraining, two: LocalTraining) -> None:
    torch.testing.assert_close(one.adapters, two.adapters, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.losses, two.losses, rtol=0, atol=1e-9)


def is_frozen_norm(model: nn.Module) -> bool:
    return any(isinstance(module, FrozenNorm) for module in model.modules())


@pytest.mark.parametrize("settings", [SETTINGS, DROPPING], ids=["plain", "dropout"])
@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_lean_training_equals_sequential_peft(architecture: str, settings: LoraSettings, small_blocks: None) -> None:
    model = make_model(architecture, attention="sdpa")
    start = start_adapter(model, settings)
    batches = make_batches(clients=3, steps=3, rows=3)
    alone = SequentialModel(copy.deepcopy(model), settings, pad_id=0).train(start, batches, **OPTIONS)
    together = StackedModel(model, settings, pad_id=0, lean=True)
    assert together.model.config._attn_implementation == NAME
    assert is_frozen_norm(together.model) == (architecture in ("llama", "mistral", "qwen2"))
    trained = together.train(start, batches, **OPTIONS)
    assert (trained.adapters - start).abs().max() > 1e-3
    assert_equal(trained, alone)


@pytest.mark.parametrize("settings", [SETTINGS, LATE, DROPPING], ids=["all", "late", "dropout"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("budget", [None, 1], ids=["whole", "row by row"])
def test_long_uneven_rows_in_parts_equal_sequential_peft(
    settings: LoraSettings, checkpointing: bool, budget: int | None, small_blocks: None
) -> None:
    model = make_model("llama", attention="sdpa")
    start = start_adapter(model, settings)
    batches = make_batches(clients=2, steps=2, rows=3, shortest=20, longest=150)
    options = OPTIONS | {"learning_rate": 4e-3}
    alone = SequentialModel(copy.deepcopy(model), settings, pad_id=0).train(start, batches, **options)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    stacked = StackedModel(model, settings, pad_id=0, memory_bytes=budget, lean=True)
    assert_equal(stacked.train(start, batches, **options), alone)


def gradient(model: PreTrainedModel, *, lean: bool, settings: LoraSettings = SETTINGS) -> Tensor:
    """Return the first step's gradient of three clients, flat."""
    start = start_adapter(model, settings, torch.float32, noise=0.1)
    stacked = StackedModel(model, settings, pad_id=0, lean=lean)
    _, gradients = stacked._load(start.expand(3, -1), trainable=True)
    rows = [client[0] for client in make_batches(clients=3, steps=1, rows=4, longest=40)]
    stacked._backward(rows, 0, [0, 0, 0], gradients)
    stacked.clear()
    return gradients.clone()


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox"])
def test_gradients_in_bfloat16_are_those_of_float32_but_for_rounding(
    architecture: str, widened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both start from weights that bfloat16 represents, so that only the computation is rounded.

    A rounding to 8 binary digits changes a number by at most 2 ** -9 of it. On the way through two layers and back, a
    gradient is rounded some 60 times; independent errors add up to 8 times one, which is 2 ** -6. Twice that is
    allowed, and not more than twice the error of plain passes in bfloat16, which round about as often.
    """
    monkeypatch.setattr(products, "widens_bfloat16", lambda: widened)
    model = make_model(architecture, torch.bfloat16, attention="sdpa")
    exact = gradient(copy.deepcopy(model).float(), lean=False)
    plain, lean = (gradient(copy.deepcopy(model), lean=way) for way in (False, True))
    error = float((lean - exact).norm() / exact.norm())
    assert error < 2.0**-5
    assert error < 2 * float((plain - exact).norm() / exact.norm())


@pytest.mark.parametrize("settings", [SETTINGS, LATE, DROPPING], ids=["all", "late", "dropout"])
@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_widened_products_give_the_gradients_of_bfloat16(
    architecture: str, settings: LoraSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gradients that each differ from the exact one by 2 ** -5 of it differ by sqrt(2) times that, or less."""
    model = make_model(architecture, torch.bfloat16, attention="sdpa")
    if architecture == "gpt_neox" and settings is LATE:
        settings = LoraSettings(rank=4, alpha=8, targets=("dense", "dense_h_to_4h"))
    found = []
    for widened in (False, True):
        monkeypatch.setattr(products, "widens_bfloat16", lambda widened=widened: widened)
        found.append(gradient(copy.deepcopy(model), lean=True, settings=settings))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 2.0**-4.5


def test_only_bfloat16_on_a_processor_is_trained_lean_by_itself() -> None:
    for dtype, expected in ((torch.float32, False), (torch.float64, False), (torch.bfloat16, True)):
        assert StackedModel(make_model("llama", dtype), SETTINGS, pad_id=0).lean == expected
    assert not trains_lean("bfloat16", "cuda")
    assert not trains_lean("bfloat16", "cpu", "8bit")
    assert not trains_lean("float16", "cpu")


def test_a_client_whose_training_overflows_leaves_the_others_alone() -> None:
    model = make_model("llama", torch.bfloat16, attention="sdpa")
    start = start_adapter(model, SETTINGS, torch.float32)
    stacked = StackedModel(model, SETTINGS, pad_id=0, lean=True)
    rows = [client[0] for client in make_batches(clients=3, steps=1, rows=2)]
    found = []
    for broken in (False, True):
        adapters = start.repeat(3, 1)
        if broken:
            adapters[1] = float("nan")
        _, gradients = stacked._load(adapters, trainable=True)
        stacked._backward(rows, 0, [0, 0, 0], gradients)
        found.append([part.grad[[0, 2]].clone() for layer in stacked._layers for part in (layer.factor_a,)])
        stacked.clear()
    for whole, beside in zip(*found, strict=True):
        assert torch.equal(whole, beside)


def test_sampling_from_a_lean_model_uses_fused_attention() -> None:
    plain = make_model("llama", torch.float32, attention="sdpa")
    lean = copy.deepcopy(plain)
    StackedModel(lean, SETTINGS, pad_id=0, lean=True)
    ids, mask = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]]), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(plain.generate(ids, **options), lean.generate(ids, **options))
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, lean(ids).logits, rtol=0, atol=1e-5)


class _ShiftedRMSNorm(nn.Module):
    """A norm whose weight is stored less one, as some architectures do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 32))
        self.variance_epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (32,), 1.0 + self.weight, self.variance_epsilon)


def test_parts_that_compute_something_else_stay() -> None:
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        hidden_act="gelu",
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    model.model.norm = _ShiftedRMSNorm()
    make_lean(model)
    assert isinstance(model.model.norm, _ShiftedRMSNorm)
    assert isinstance(model.model.layers[0].input_layernorm, FrozenNorm)
    assert not isinstance(model.model.layers[0].mlp, GatedFeedForward)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [1, 10, 23])
def test_losses_whose_gradient_replaces_the_logits_are_the_same(positions: int, bias: bool, small_blocks: None) -> None:
    generator = torch.Generator().manual_seed(1)
    head = nn.Linear(8, 97, bias=bias, dtype=torch.float64)
    # Logits of several hundred: probabilities of most tokens are zero.
    hidden = 200 * torch.randn(positions, 8, generator=generator, dtype=torch.float64)
    targets = torch.randint(97, (positions,), generator=generator)
    weights = torch.rand(positions, generator=generator, dtype=torch.float64)
    found = []
    for function in (token_losses, token_losses_in_place):
        leaf = hidden.clone().requires_grad_(True)
        values = function(head.requires_grad_(False), leaf, targets)
        (values * weights).sum().backward()
        found.append((values.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("tokens", "share"), [(1, 1.0), (128, 1.0), (256, 0.75), (160, (128 * 128 + 32 * 160) / 160**2)]
)
def test_the_share_of_scores_that_blocks_compute(tokens: int, share: float) -> None:
    assert scored_share(tokens) == pytest.approx(share)
