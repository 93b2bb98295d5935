"""Products in float32 give what bfloat16 products give, keep no float32 copies, and change no other format."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmark.models import products
from benchmark.models.head import replaced_logits_bytes, token_losses_in_place, widened_head_bytes
from benchmark.models.loading import load_causal_lm
from benchmark.models.products import (
    adapted,
    adapted_gradients,
    baddbmm,
    bmm,
    linear,
    mm,
    widen_layers,
    widened_bytes,
    widens,
    widens_bfloat16,
)
from benchmark.suites.settings import LoraSettings
from benchmark.training.lean import is_lean
from benchmark.training.sequential import SequentialModel
from tests.benchmark.tiny_models import make_batches, make_model, start_adapter

SETTINGS = LoraSettings(rank=4, alpha=8, targets="all-linear")
ROUNDING = 2.0**-8
"""A rounding to bfloat16 changes a number by at most 2 ** -9 of it; as much again is allowed for the sum's order."""


def claim(capabilities: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(products.platform, "machine", lambda: "x86_64")
    widens_bfloat16.cache_clear()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Read this machine's capabilities again after each test."""
    yield
    widens_bfloat16.cache_clear()


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without bfloat16 instructions."""
    claim({"avx2": True, "avx512_f": True}, monkeypatch)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16 instructions, as far as the code can tell."""
    claim({"avx2": True, "avx512_bf16": True}, monkeypatch)


@pytest.fixture(params=["lacking", "able"])
def either(request: pytest.FixtureRequest) -> bool:
    """Return whether products are widened, once for each kind of processor."""
    request.getfixturevalue(request.param)
    return bool(request.param == "lacking")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide small matrices as large ones are divided."""
    monkeypatch.setattr(products, "_WEIGHT_BLOCK", 200)
    monkeypatch.setattr(products, "_ROW_BLOCK", 100)
    monkeypatch.setattr(products, "_FEWEST", 3)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_rounded_once(found: Tensor, exact: Tensor) -> None:
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=ROUNDING, atol=1e-4)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"])
def test_a_processor_with_instructions_widens_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claim({"avx2": True, name: False}, monkeypatch)
    assert widens(random(2, 2))
    claim({"avx2": True, name: True}, monkeypatch)
    assert not widens(random(2, 2))


def test_an_unknown_processor_widens_nothing(lacking: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products.platform, "machine", lambda: "s390x")
    widens_bfloat16.cache_clear()
    assert not widens_bfloat16()


def test_other_formats_and_devices_are_not_widened(lacking: None) -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert not widens(random(2, 2, dtype=dtype))
    assert not widens(torch.empty(2, 2, dtype=torch.bfloat16, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_other_formats_are_pytorchs_own(dtype: torch.dtype, lacking: None) -> None:
    x, weight, bias = random(9, 20, dtype=dtype), random(30, 20, dtype=dtype, seed=1), random(30, dtype=dtype)
    assert torch.equal(linear(x, weight, bias), nn.functional.linear(x, weight, bias))
    assert torch.equal(mm(x, weight.t(), x.new_empty(9, 30)), x @ weight.t())
    assert torch.equal(bmm(x[None], weight.t()[None]), torch.bmm(x[None], weight.t()[None]))
    model = make_model("llama", dtype)
    widen_layers(model)
    assert not any("forward" in vars(module) for module in model.modules())


def test_native_products_keep_their_bits(able: None) -> None:
    x, weight, a, b = random(2, 9, 20), random(30, 20, seed=1), random(2, 4, 20, seed=2), random(2, 30, 4, seed=3)
    y, low = adapted(x, weight, a, b, 2.0)
    assert torch.equal(low, torch.bmm(x, a.transpose(1, 2)))
    assert torch.equal(y, nn.functional.linear(x, weight).baddbmm_(low, b.transpose(1, 2), alpha=2.0))
    of_y = random(2, 9, 30, seed=4)
    of_x, of_a, of_b = adapted_gradients(of_y, x, low, weight, a, b, 2.0, of_inputs=True)
    of_low = torch.bmm(of_y, b).mul_(2.0)
    assert of_x is not None
    assert torch.equal(of_x, torch.matmul(of_y, weight).baddbmm_(of_low, a))
    assert torch.equal(of_a, torch.bmm(of_low.transpose(1, 2), x))
    assert torch.equal(of_b, torch.bmm((low * 2.0).transpose(1, 2), of_y).transpose(1, 2))
    assert torch.equal(baddbmm(y, low, b.transpose(1, 2), 0.5), torch.baddbmm(y, low, b.transpose(1, 2), alpha=0.5))


@pytest.mark.parametrize("rows", [1, 7, 8, 45])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_and_its_gradient_are_rounded_once(
    rows: int, bias: bool, either: bool, small_blocks: None
) -> None:
    x, weight, shift = random(rows, 3, 21), random(37, 21, seed=1), random(37, seed=2) if bias else None
    found = []
    for leaf in (x.clone().requires_grad_(True), x.float().requires_grad_(True)):
        parts = [None if part is None else part.to(leaf.dtype) for part in (weight, shift)]
        y = linear(leaf, *parts)  # type: ignore[arg-type]
        y.backward(torch.ones_like(y))
        found.append((y.detach(), leaf.grad))
    for half, exact in zip(*found, strict=True):
        assert half is not None
        assert exact is not None
        # oneDNN adds the bias after it has rounded.
        torch.testing.assert_close(half.float(), exact, rtol=ROUNDING * (1 + bias), atol=1e-4 + 0.05 * bias)


def test_a_trained_weight_gets_its_gradient(lacking: None) -> None:
    x, layer = random(9, 20), nn.Linear(20, 30, dtype=torch.bfloat16)
    linear(x, layer.weight, layer.bias).sum().backward()
    assert layer.weight.grad is not None
    assert_rounded_once(layer.weight.grad, x.float().sum(0).expand(30, -1))


@pytest.mark.parametrize("shape", [(11, 20, 90), (11, 90, 20), (1, 90, 1), (40, 7, 5)])
def test_a_product_in_place_of_plain_and_transposed_matrices(
    shape: tuple[int, int, int], either: bool, small_blocks: None
) -> None:
    rows, inner, columns = shape
    a, b = random(rows, inner), random(inner, columns, seed=1)
    for left in (a, a.t().contiguous().t()):
        for right in (b, b.t().contiguous().t()):
            room = torch.full((rows + 2, columns), 7.0, dtype=torch.bfloat16)
            assert mm(left, right, out=room[1:-1]).data_ptr() == room[1:-1].data_ptr()
            assert_rounded_once(room[1:-1], a.float() @ b.float())
            assert (room[[0, -1]] == 7).all()


def test_stacks_of_products_and_their_gradients_are_rounded_once(either: bool) -> None:
    y, a, b = random(3, 12, 10), random(3, 4, 12, seed=1), random(3, 4, 10, seed=2)
    weights = random(3, 12, 10, seed=3)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [part.to(dtype).requires_grad_(True) for part in (y, a, b)]
        sums = baddbmm(leaves[0], leaves[1].transpose(1, 2), leaves[2], 0.5)
        alone = bmm(leaves[1].transpose(1, 2), leaves[2])
        gradients = torch.autograd.grad(sums, leaves, weights.to(dtype))
        results.append([sums.detach(), alone.detach(), *gradients])
    for half, exact in zip(*results, strict=True):
        assert_rounded_once(half, exact)


@pytest.mark.parametrize("of_inputs", [False, True])
def test_an_adapted_layer_and_its_gradients(of_inputs: bool, either: bool, small_blocks: None) -> None:
    x, weight, a, b = random(3, 20, 25), random(40, 25, seed=1), random(3, 4, 25, seed=2), random(3, 40, 4, seed=3)
    of_y = random(3, 20, 40, seed=4)
    y, low = adapted(x, weight, a, b, 0.5)
    assert_rounded_once(low, x.float() @ a.float().transpose(1, 2))
    thin = low.float() @ b.float().transpose(1, 2)
    exact = x.float() @ weight.float().t() + 0.5 * thin
    # A processor with instructions rounds the first term as well.
    torch.testing.assert_close(y.float(), exact, rtol=ROUNDING, atol=1e-4 if either else 2.0**-9 * 60)
    of_x, of_a, of_b = adapted_gradients(of_y, x, low, weight, a, b, 0.5, of_inputs=of_inputs)
    of_low = 0.5 * (of_y.float() @ b.float())
    assert_rounded_once(of_b, 0.5 * of_y.float().transpose(1, 2) @ low.float())
    # The gradient between the factors is rounded before it is used.
    expected = of_low.transpose(1, 2) @ x.float()
    torch.testing.assert_close(of_a.float(), expected, rtol=2 * ROUNDING, atol=2 * ROUNDING * float(expected.std()))
    assert (of_x is None) == (not of_inputs)
    if of_x is not None:
        expected = of_y.float() @ weight.float() + of_low @ a.float()
        torch.testing.assert_close(of_x.float(), expected, rtol=2 * ROUNDING, atol=2 * ROUNDING * float(expected.std()))


def test_no_client_sees_the_numbers_of_another(lacking: None, small_blocks: None) -> None:
    x, weight, a, b = random(3, 20, 25), random(40, 25, seed=1), random(3, 4, 25, seed=2), random(3, 40, 4, seed=3)
    whole = adapted(x, weight, a, b, 0.5)
    a[1], x[1] = float("nan"), float("inf")
    for before, after in zip(whole, adapted(x, weight, a, b, 0.5), strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that PyTorch's allocator held beyond those before ``work``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_the_head_of_a_real_vocabulary_takes_less_than_50_mb_more(monkeypatch: pytest.MonkeyPatch) -> None:
    head = nn.Linear(576, 49_152, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    hidden, targets = random(160, 576).requires_grad_(True), torch.arange(160)

    def work() -> Tensor:
        losses = token_losses_in_place(head, hidden, targets)
        gradient: Tensor = torch.autograd.grad(losses.sum(), hidden)[0]
        return gradient

    results, peaks = [], []
    for name in ("avx512_bf16", "avx2"):
        claim({name: True}, monkeypatch)
        results.append(work())
        peaks.append(peak(work))
    widened = widened_head_bytes(160, 49_152, 576)
    assert widened < 50e6
    assert peaks[1] == pytest.approx(replaced_logits_bytes(160, 49_152, 2) + widened, rel=0.1)
    torch.testing.assert_close(results[1].float(), results[0].float(), rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("shape", [(512, 576, 1536), (16_384, 4096, 11_008), (64, 11_008, 4096)])
def test_no_product_takes_more_than_50_mb(shape: tuple[int, int, int]) -> None:
    assert widened_bytes(*shape) < 50e6


def test_a_frozen_layer_keeps_no_weight_in_float32(lacking: None) -> None:
    layers = nn.Sequential(*[nn.Linear(512, 512, bias=False, dtype=torch.bfloat16) for _ in range(8)])
    layers.requires_grad_(False)
    widen_layers(layers)
    x = random(16, 512).requires_grad_(True)
    layers(x).sum().backward()
    assert peak(lambda: layers(x).sum().backward()) < 2 * 4 * 512 * 512


class TestLayers:
    """The linear layers of an opened model."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        make_model("llama", torch.float32, attention="sdpa").save_pretrained(tmp_path)
        return tmp_path

    def test_every_layer_of_a_model_is_covered(self, folder: Path, lacking: None) -> None:
        model = load_causal_lm(folder, dtype="bfloat16", device="cpu")
        plain = [module for module in model.modules() if type(module) is nn.Linear]
        assert model.lm_head in plain
        assert all("forward" in vars(module) for module in plain)
        assert is_lean(model, plain)
        ids = torch.arange(24).view(2, 12)
        with torch.no_grad():
            half = model(ids).logits.float()
            exact = load_causal_lm(folder, device="cpu")(ids).logits
            torch.testing.assert_close(half, exact, rtol=0.05, atol=0.05 * float(exact.std()))
            # A model that is moved to another format is multiplied in it.
            torch.testing.assert_close(model.float()(ids).logits, exact, rtol=0.05, atol=0.05 * float(exact.std()))

    def test_a_model_is_saved_as_any_other(self, folder: Path, tmp_path: Path, lacking: None) -> None:
        model = load_causal_lm(folder, dtype="bfloat16", device="cpu")
        names = list(make_model("llama", torch.bfloat16).state_dict())
        assert list(model.state_dict()) == names
        model.save_pretrained(tmp_path / "again")
        again = load_causal_lm(tmp_path / "again", dtype="bfloat16", device="cpu")
        for name, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor)

    def test_a_copy_multiplies_with_its_own_weights(self, lacking: None) -> None:
        layer = nn.Sequential(nn.Linear(20, 30, dtype=torch.bfloat16)).requires_grad_(False)
        widen_layers(layer)
        x, other = random(16, 20), copy.deepcopy(layer)
        before = layer(x)
        other[0].weight.zero_()
        other[0].bias.zero_()
        assert (other(x) == 0).all()
        assert torch.equal(layer(x), before)

    def test_peft_trains_on_widened_layers(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trained = []
        for name in ("avx512_bf16", "avx2"):
            claim({name: True}, monkeypatch)
            model = load_causal_lm(folder, dtype="bfloat16", device="cpu")
            start = start_adapter(make_model("llama"), SETTINGS, torch.float32)
            batches = make_batches(clients=2, steps=2, rows=3)
            trained.append(SequentialModel(model, SETTINGS, pad_id=0).train(start, batches, learning_rate=1e-3))
        moved = [result.adapters - start for result in trained]
        assert torch.cosine_similarity(*moved).min() > 0.95
        torch.testing.assert_close(trained[1].losses, trained[0].losses, rtol=0, atol=0.02)

    def test_a_dropped_model_is_freed(self, folder: Path, lacking: None) -> None:
        model = load_causal_lm(folder, dtype="bfloat16", device="cpu")
        head = weakref.ref(model.lm_head.weight)
        del model
        gc.collect()
        assert head() is None
