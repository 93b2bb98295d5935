"""Cost of a training step from sizes alone: matrix operations and bytes.

The formulas count the work of :class:`benchmark.training.stacked.StackedModel` with a Llama-like decoder and fused
attention. ``tests/benchmark/prediction/test_step.py`` compares them with PyTorch's counts. An operation is one addition
or multiplication, so a product of ``[a, b]`` and ``[b, c]`` has ``2abc``.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.models.head import most_logits, replaced_logits_bytes, widened_head_bytes
from benchmark.models.products import widened_bytes, widens_bfloat16
from benchmark.models.sizes import (
    ATTENTION_BLOCK,
    ATTENTION_SCORES,
    BYTES,
    Decoder,
    Linear,
    Reads,
    merging_is_cheaper,
    scored_share,
)
from benchmark.suites.settings import LoraSettings


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step of all clients of a round.

    Attributes:
        clients: Clients that train together.
        rows: Rows of each.
        width: Tokens of a row, padding included.
        losses: Most tokens with loss of a client.
        all_losses: Tokens with loss of all clients together; by default ``losses`` for each client.
    """

    clients: int
    rows: int
    width: int
    losses: int
    all_losses: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all clients, padding included."""
        return self.clients * self.rows * self.width

    @property
    def loss_tokens(self) -> int:
        """Tokens that the last feed-forward block works on; clients with fewer losses repeat some."""
        return self.clients * self.losses

    @property
    def head_tokens(self) -> int:
        """Tokens that the output head works on."""
        return self.loss_tokens if self.all_losses is None else self.all_losses


@dataclass(frozen=True)
class Operations:
    """Operations of a step; ``forward`` and ``backward`` do not contain the ``recomputed`` ones."""

    forward: float
    backward: float
    recomputed: float = 0.0

    @property
    def useful(self) -> float:
        """Forward and backward operations, without recomputed ones."""
        return self.forward + self.backward

    @property
    def executed(self) -> float:
        """All operations."""
        return self.useful + self.recomputed


def training_operations(
    decoder: Decoder,
    lora: LoraSettings,
    step: Step,
    dtype: str = "float32",
    *,
    checkpointing: bool = False,
    lean: bool = False,
) -> Operations:
    """Return the matrix operations of one step on a frozen base.

    A frozen layer costs one product forward and one backward (the gradient of its input; none of its weight). An
    adapted one has two thin products forward and four backward. The first block's input needs no gradient. The last
    feed-forward block and the head work only where there is loss. Attention counts the half of its square that a causal
    mask leaves, and twice as much backward as forward.

    Lean attention (:mod:`benchmark.training.attention`) also computes scores that the mask hides, and all scores again
    in the backward pass. Both count as recomputed.
    """
    adapted = decoder.adapted(lora)
    forward = backward = 0.0
    for block in range(decoder.layers):
        for linear in decoder.linears:
            last = block == decoder.layers - 1 and linear.reads in ("feed", "inner")
            tokens = step.loss_tokens if last and not _feed_drops(decoder, lora) else step.tokens
            merged = (
                not lean and not lora.dropout and merging_is_cheaper(linear.size, tokens // step.clients, BYTES[dtype])
            )
            cost = _linear(linear, linear in adapted, lora.rank, tokens, step.clients * merged)
            forward += cost.forward
            backward += cost.backward if block else _first_block(linear, adapted, lora.rank, cost, tokens, merged)
    attention = 2.0 * step.tokens * step.width * decoder.heads * decoder.head_dim
    # Where only later layers of a block are adapted, the first block's attention needs no gradient.
    differentiated = decoder.layers - (not any(linear.reads == "block" for linear in adapted))
    head = 2.0 * step.head_tokens * decoder.hidden * decoder.vocabulary
    # Recomputation leaves out a block's last product, except in the last block, which then fills in other positions.
    plain = [linear for linear in decoder.linears if linear.reads == "inner" and linear not in adapted]
    not_again = sum(2.0 * step.tokens * linear.size * (decoder.layers - 1) for linear in plain)
    recomputed = forward + decoder.layers * attention - not_again if checkpointing else 0.0
    if lean:
        hidden = (2 * scored_share(step.width) - 1) * (1 + checkpointing)
        again = 5 * scored_share(step.width) - 2
        recomputed += differentiated * attention * (hidden + again)
    return Operations(
        forward=forward + decoder.layers * attention + head,
        backward=backward + 2 * differentiated * attention + head,
        recomputed=recomputed,
    )


def _linear(linear: Linear, adapted: bool, rank: int, tokens: int, merged: int) -> Operations:
    """Return the operations of one layer; ``merged`` is the number of clients whose weights are merged."""
    base = 2.0 * tokens * linear.size
    if not adapted:
        return Operations(base, base)
    if merged:
        merge = 2.0 * merged * linear.size * rank
        return Operations(base + merge, 2 * base + 2 * merge)
    thin = 2.0 * tokens * rank * (linear.inputs + linear.outputs)
    return Operations(base + thin, base + 2 * thin)


def _first_block(
    linear: Linear, adapted: tuple[Linear, ...], rank: int, own: Operations, tokens: int, merged: bool
) -> float:
    """Return the backward operations of a layer of the first block, below which nothing is trained."""
    order: tuple[Reads, ...] = ("block", "attention", "feed", "inner")
    first = min((order.index(other.reads) for other in adapted), default=len(order))
    if order.index(linear.reads) > first:
        return own.backward
    if linear not in adapted:
        return 0.0
    return own.backward - 2.0 * tokens * (linear.size if merged else linear.size + rank * linear.inputs)


def _feed_drops(decoder: Decoder, lora: LoraSettings) -> bool:
    """Return whether the feed-forward block has dropout, which is drawn for whole rows."""
    return lora.dropout > 0 and any(linear.reads in ("feed", "inner") for linear in decoder.adapted(lora))


def adapter_state_bytes(decoder: Decoder, lora: LoraSettings, clients: int) -> int:
    """Return the bytes of all clients' factors, gradients and two moments of AdamW, in float32."""
    return 4 * 4 * clients * decoder.adapter_parameters(lora)


def activation_bytes(
    decoder: Decoder,
    lora: LoraSettings,
    step: Step,
    dtype: str,
    quantization: str = "",
    *,
    checkpointing: bool = False,
    lean: bool = False,
) -> int:
    """Return the largest number of bytes that one step's activations and their gradients take at a time.

    Without checkpointing, activations stay until the backward pass reads them. With checkpointing, only each block's
    input stays, and one block at a time is computed again. The peak is where the loss is taken or in the backward pass
    of the last block that works on all tokens.
    """
    size, widened = BYTES[dtype], lean and dtype == "bfloat16" and widens_bfloat16()
    half = _kept_by_attention(decoder, lora, size, lean=lean)
    feed = _kept_by_feed_forward(decoder, lora, size, lean=lean)
    last_feed = (step.tokens if _feed_drops(decoder, lora) else step.loss_tokens) * feed
    # The final norm, and the tokens with loss in the last feed-forward block and in the head.
    final = step.tokens * (2 * size if lean else 4) * decoder.hidden
    end = final + step.loss_tokens * size * 2 * decoder.hidden
    at_once = min(step.head_tokens, max(1, most_logits() // decoder.vocabulary))
    # Logits in float32, their probabilities and their gradient; in half precision, the gradient in that format as well.
    logits = at_once * decoder.vocabulary * (12 if size >= 4 else 12 + size)
    if lean:
        logits = replaced_logits_bytes(step.head_tokens, decoder.vocabulary, size)
        logits += widened_head_bytes(step.head_tokens, decoder.vocabulary, decoder.hidden) if widened else 0
    # The input of an adapted last product is freed before.
    gradients = 3 if lean else 2 - any(linear.reads == "inner" for linear in decoder.adapted(lora))
    inside = step.tokens * size * (gradients * decoder.intermediate + decoder.hidden)
    if widened:
        rows = step.tokens // step.clients
        inside += max(widened_bytes(rows, linear.outputs, linear.inputs) for linear in decoder.linears)
    norm = step.tokens * (_LEAN_NORM_COPIES if lean else _NORM_COPIES) * 4 * decoder.hidden
    norm = max(norm, _scores_bytes(decoder, step, size)) if lean else norm
    # Factors in the model's precision, and a quantised layer's weight while it is used.
    fixed = step.clients * decoder.adapter_parameters(lora) * size if size < 4 else 0
    fixed += 2 * max(linear.size for linear in decoder.linears) * size if quantization else 0
    if checkpointing:
        inputs = decoder.layers * step.tokens * decoder.hidden * size
        block = max(step.tokens * (half + feed) + inside, step.tokens * half + norm)
        return fixed + inputs + max(end + logits, block)
    every = decoder.layers * step.tokens * half + (decoder.layers - 1) * step.tokens * feed
    in_backward = every - step.tokens * half + inside if decoder.layers > 1 else 0
    return fixed + max(every + last_feed + end + logits, every + norm, in_backward)


_NORM_COPIES = 6
"""Copies of a norm's input, in float32, that its backward pass makes."""

_LEAN_NORM_COPIES = 3
"""The same for a lean norm."""


def _scores_bytes(decoder: Decoder, step: Step, size: int) -> int:
    """Return the bytes of a block of lean attention in the backward pass: scores, and gradients of its inputs."""
    scores = min(ATTENTION_SCORES, step.tokens * decoder.heads * min(step.width, ATTENTION_BLOCK))
    inputs = step.tokens * decoder.head_dim * (size * decoder.heads + 2 * 4 * decoder.kv_heads)
    # Probabilities, their gradient and that of the scores in float32, and one of them in the model's precision.
    return scores * (3 * 4 + size) + inputs


def _kept_by_attention(decoder: Decoder, lora: LoraSettings, size: int, *, lean: bool) -> int:
    """Return the bytes a token that the attention half of a block keeps for the backward pass."""
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    # Queries, keys, values, output and one normaliser a head.
    tensors = size * (2 * queries + 2 * keys) + 4 * decoder.heads
    if lean:
        # Lean attention keeps no output; an adapter on it does.
        output = not lora.dropout and any(linear.reads == "attention" for linear in decoder.adapted(lora))
        tensors = size * (queries * (1 + output) + 2 * keys)
    norm = _kept_by_norm(decoder, size, lean=lean)
    return tensors + norm + _kept_by_adapters(decoder, lora, size, "block", "attention")


def _kept_by_feed_forward(decoder: Decoder, lora: LoraSettings, size: int, *, lean: bool) -> int:
    """Return the bytes a token that the feed-forward half of a block keeps for the backward pass."""
    tensors = size * (3 if decoder.gated else 1) * decoder.intermediate
    norm = _kept_by_norm(decoder, size, lean=lean)
    adapters = _kept_by_adapters(decoder, lora, size, "feed", "inner")
    if lean and decoder.gated:
        tensors = size * 2 * decoder.intermediate
        # The last layer computes its input again.
        again = not lora.dropout and any(linear.reads == "inner" for linear in decoder.adapted(lora))
        adapters -= size * decoder.intermediate * again
    return tensors + norm + adapters


def _kept_by_norm(decoder: Decoder, size: int, *, lean: bool) -> int:
    """Return the bytes a token of a norm, which works in float32 and, if it is lean, keeps its input as it is."""
    return (size * decoder.hidden + 4) if lean and decoder.gated else 4 * (decoder.hidden + 1)


def _kept_by_adapters(decoder: Decoder, lora: LoraSettings, size: int, *reads: Reads) -> int:
    """Return the bytes a token of adapters' inputs and of the products between their factors."""
    adapted = [linear for linear in decoder.adapted(lora) if linear.reads in reads]
    thin = size * lora.rank * len(adapted)
    if lora.dropout:
        # Each layer keeps its own masked inputs and mask.
        return thin + sum((size + 1) * linear.inputs for linear in adapted)
    # Layers with the same input share it. Attention keeps its own output.
    inputs = {linear.reads: linear.inputs for linear in adapted if linear.reads != "attention"}
    return thin + size * sum(inputs.values())
