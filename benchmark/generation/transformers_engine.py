"""Generation with transformers, for platforms without vLLM and for weights that vLLM cannot hold.

The interface and the greedy answers are those of :mod:`benchmark.generation.vllm_engine`. Sampled answers differ.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmark.errors import FedSafetyError, UsageError
from benchmark.generation.adapters import StoredAdapter, read_adapter
from benchmark.generation.base import Answer, Engine, Request, TokenScore
from benchmark.generation.checkpoints import read_checkpoint
from benchmark.generation.memory import memory_error
from benchmark.generation.merging import MergedWeights, Place
from benchmark.generation.settings import EngineSettings
from benchmark.models.decoding import AnswerDecoder
from benchmark.models.last_position import last_position
from benchmark.models.memory import out_of_memory
from benchmark.models.reading import cause, read_tokenizer
from benchmark.stop import check_stop

_SCORED_LOGITS = 2**28
"""Logits held at once while sequences are scored: one gibibyte in float32."""

T = TypeVar("T")


class TransformersEngine(Engine):
    """Batched decoding with a key-value cache. Hooks add the LoRA factors, or the weights hold them.

    One adapter is in memory at a time. A batch that does not fit into memory is halved, down to one sequence, because
    no answer depends on the rest of its batch.

    Args:
        model_path: Folder of the base model.
        settings: Batch, length and number formats. Quantised weights are loaded as the training code loads them.
        device: Device of the model; by default a GPU if there is one.

    Raises:
        UsageError: The folder is not a loadable checkpoint.
        FedSafetyError: The model lacks a tensor, does not fit into memory, or cannot be quantised here.
    """

    def __init__(
        self,
        model_path: Path,
        settings: EngineSettings | None = None,
        *,
        device: str | None = None,
    ) -> None:
        import transformers

        hub: Any = transformers
        hub.utils.logging.disable_progress_bar()
        settings = settings or EngineSettings()
        self._checkpoint = read_checkpoint(model_path, settings.template)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._max_batch = settings.max_batch
        self._fitting: dict[str, int] = {}
        self.max_length = min(settings.max_length or self._checkpoint.max_length, self._checkpoint.max_length)
        self.name = settings.label(f"transformers {version('transformers')}")
        self.quantization = settings.quantization
        dtype = settings.dtype
        if dtype == "auto" and self._device.type == "cpu":
            dtype = "float32"
        self._model: Any = None
        with self._memory_watched("loading the model"):
            self._model = _loaded(model_path, dtype, settings.quantization, self._device)
        self._decoder = AnswerDecoder(read_tokenizer(model_path, settings.template))
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self._active: dict[str, tuple[Tensor, Tensor]] = {}
        self._merged: MergedWeights | None = None
        if settings.merges:
            with self._memory_watched("copying the model's weights"):
                self._merged = _mergeable(self._model, self._checkpoint.linear_layers)
            return
        for name in self._checkpoint.linear_layers:
            self._model.get_submodule(name).register_forward_hook(self._hook(name))

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers in the order of ``requests``; batches hold one adapter and prompts of similar length.

        Raises:
            UsageError: A prompt with its answer does not fit the model.
            FedSafetyError: An adapter cannot be applied.
        """
        self.check_fit((f"prompt {i}", len(r.prompt_ids), r.max_new_tokens) for i, r in enumerate(requests))
        answers: dict[int, Answer] = {}
        for batch in self._batches([(r.adapter, len(r.prompt_ids)) for r in requests]):
            parts = self._in_parts("answering", batch, lambda part: self._answer([requests[i] for i in part]))
            for part, part_answers in parts:
                answers.update(zip(part, part_answers, strict=True))
        return [answers[index] for index in range(len(requests))]

    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        """Return the scores of every token but the first of each sequence.

        Raises:
            UsageError: A sequence does not fit the model.
            FedSafetyError: An adapter cannot be applied.
        """
        self.check_fit((f"sequence {i}", len(sequence), 0) for i, (sequence, _) in enumerate(scored))
        results: dict[int, list[TokenScore]] = {}
        for batch in self._batches([(adapter, len(sequence)) for sequence, adapter in scored]):
            # The logits of all positions are held at once, so long sequences come in smaller groups.
            longest = max(len(scored[index][0]) for index in batch)
            size = max(1, _SCORED_LOGITS // (longest * self._model.config.get_text_config().vocab_size))
            for start in range(0, len(batch), size):
                group = batch[start : start + size]
                for part, scores in self._in_parts(
                    "scoring", group, lambda part: self._score([scored[index][0] for index in part])
                ):
                    results.update(zip(part, scores, strict=True))
        return [results[index] for index in range(len(scored))]

    def close(self) -> None:
        """Free the model."""
        self._model = self._merged = None
        self._active = {}
        self._give_back()

    def _give_back(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _in_parts(
        self, doing: str, batch: list[int], work: Callable[[list[int]], list[T]]
    ) -> Iterator[tuple[list[int], list[T]]]:
        """Yield parts of ``batch`` with their results: the whole batch, or as much at once as fits into memory.

        The size that fits is remembered, because a failed attempt costs more than a smaller batch.

        Raises:
            FedSafetyError: A single sequence does not fit.
        """
        rest = list(batch)
        while rest:
            check_stop()
            part = rest[: self._fitting.get(doing, self._max_batch)]
            with self._memory_watched(doing):
                results = _unless_memory_runs_out(work, part)
            if results is None:
                # Free memory here, because the failed attempt holds it until its error is gone.
                self._give_back()
                self._fitting[doing] = len(part) // 2
                continue
            yield part, results
            rest = rest[len(part) :]

    def _score(self, sequences: Sequence[Sequence[int]]) -> list[list[TokenScore]]:
        """Return the scores of one group of sequences under the active adapter."""
        ids, mask = self._padded(sequences, left=False)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            chosen = logits.gather(-1, ids[:, 1:, None])
            greedy = (chosen >= logits.amax(-1, keepdim=True)).squeeze(-1).tolist()
            values = (chosen - logits.logsumexp(-1, keepdim=True)).squeeze(-1).tolist()
        return [
            [TokenScore(value, top) for value, top in zip(row[: len(s) - 1], tops[: len(s) - 1], strict=True)]
            for row, tops, s in zip(values, greedy, sequences, strict=True)
        ]

    def _answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers of one batch, which shares an adapter."""
        ids, mask = self._padded([r.prompt_ids for r in requests], left=True)
        limits = torch.tensor([r.max_new_tokens for r in requests], device=self._device)
        end_ids = torch.tensor(sorted(self._checkpoint.end_ids), device=self._device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        sampler = _Sampler(requests, self._device)
        tokens: list[Tensor] = []
        running = torch.ones(len(requests), dtype=torch.bool, device=self._device)
        cache: Any = None
        last = last_position(self._device)
        contrasts: list[tuple[float, float] | None] = []
        with torch.inference_mode():
            while True:
                output = self._model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=last,
                )
                logits, cache = output.logits[:, -1].float(), output.past_key_values
                contrasts = contrasts or _contrasts(logits, requests)
                token = sampler.next(logits)
                tokens.append(torch.where(running, token, -1))
                running = running & ~torch.isin(token, end_ids) & (len(tokens) < limits)
                if not running.any():
                    break
                ids, positions = token[:, None], positions[:, -1:] + 1
                mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        return [
            self._finish(row, contrast)
            for row, contrast in zip(torch.stack(tokens, dim=1).tolist(), contrasts, strict=True)
        ]

    def _finish(self, row: list[int], contrast: tuple[float, float] | None) -> Answer:
        ids = [token for token in row if token >= 0]
        finished = ids[-1] in self._checkpoint.end_ids
        answer = ids[:-1] if finished else ids
        return Answer(tuple(answer), self._decoder.text(answer), finished, contrast)

    def _batches(self, keys: Sequence[tuple[Path | None, int]]) -> Iterator[list[int]]:
        """Yield the indices of ``keys`` (adapter, length) in batches of one adapter, which is active meanwhile."""
        if self._model is None:
            raise FedSafetyError("this transformers engine is closed; open another one")
        order = sorted(range(len(keys)), key=lambda i: (str(keys[i][0] or ""), keys[i][1]))
        start, loaded = 0, None
        try:
            while start < len(order):
                adapter = keys[order[start]][0]
                end = start
                while end < min(len(order), start + self._max_batch) and keys[order[end]][0] == adapter:
                    end += 1
                if start == 0 or adapter != loaded:
                    self._apply(adapter)
                    loaded = adapter
                yield order[start:end]
                start = end
        finally:
            # A shortage of memory has closed the engine.
            if self._model is not None:
                self._apply(None)

    def _apply(self, adapter: Path | None) -> None:
        """Make the model compute with ``adapter``, or alone."""
        stored = None if adapter is None else read_adapter(adapter, self._checkpoint.linear_layers)
        if self._merged is not None:
            self._merged.hold(stored)
        else:
            self._active = {} if stored is None else self._factors(stored)

    def _factors(self, stored: StoredAdapter) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors of an adapter by layer, transposed, with the scaling in the second."""
        place = {"device": self._device, "dtype": self._model.dtype}
        return {
            name: (a.to(**place).T.contiguous(), (b.to(**place) * stored.scaling).T.contiguous())
            for name, (a, b) in stored.factors.items()
        }

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            del module
            factors = self._active.get(name)
            return output if factors is None else output + inputs[0] @ factors[0] @ factors[1]

        return add

    def _padded(self, sequences: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
        """Return token ids and attention mask, both int64 ``[n, longest]``."""
        longest = max(len(s) for s in sequences)
        ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            place = slice(longest - len(sequence), longest) if left else slice(0, len(sequence))
            ids[row, place] = torch.tensor(sequence, dtype=torch.int64)
            mask[row, place] = 1
        return ids.to(self._device), mask.to(self._device)

    @contextlib.contextmanager
    def _memory_watched(self, doing: str) -> Iterator[None]:
        """Turn a shortage of memory into the error that names the settings to lower, and free the model."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.close()
            settings = {"max_batch": self._max_batch, "max_length": self.max_length}
            raise memory_error(self.name, doing, error, settings) from error


def _unless_memory_runs_out(work: Callable[[list[int]], list[T]], part: list[int]) -> list[T] | None:
    """Return ``work(part)``, or ``None`` if memory ran out and ``part`` can be divided."""
    try:
        return work(part)
    except (RuntimeError, MemoryError) as error:
        if len(part) == 1 or not out_of_memory(error):
            raise
    return None


class _Sampler:
    """Draws the tokens of one batch, each request from a stream of its own.

    Args:
        requests: The batch.
        device: Device of the logits.
    """

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        self._sampled = [i for i, r in enumerate(requests) if r.temperature > 0]
        rows = [requests[i] for i in self._sampled]
        # Draw all numbers of a request on the processor beforehand, so that they depend neither on the device nor on
        # the rest of the batch.
        longest = max((r.max_new_tokens for r in rows), default=0)
        self._numbers = torch.zeros(len(rows), longest, dtype=torch.float64)
        for numbers, request in zip(self._numbers, rows, strict=True):
            assert request.seed is not None
            stream = torch.Generator().manual_seed(request.seed)
            numbers[: request.max_new_tokens].uniform_(generator=stream)
        self._numbers = self._numbers.to(device)
        self._temperature = torch.tensor([[r.temperature] for r in rows], dtype=torch.float64, device=device)
        self._top_p = torch.tensor([[r.top_p] for r in rows], dtype=torch.float64, device=device)
        self._rows = torch.tensor(self._sampled, dtype=torch.int64, device=device)
        self._step = 0

    def next(self, logits: Tensor) -> Tensor:
        """Return the next token of each request ``[n]``, from its logits ``[n, vocabulary]``."""
        token = logits.argmax(-1)
        if self._sampled:
            step = min(self._step, self._numbers.shape[1] - 1)
            token[self._rows] = self._drawn(logits[self._rows], self._numbers[:, step, None])
            self._step += 1
        return token

    def _drawn(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Return tokens by inverting the distribution, in falling probability and cut where ``top_p`` is reached."""
        ordered, tokens = logits.double().div(self._temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        sums = ordered.masked_fill(before >= self._top_p, 0.0).cumsum(-1)
        place = torch.searchsorted(sums, numbers * sums[:, -1:], right=True)
        # Rounding may lead past the last token within top_p; then take that token.
        place = place.minimum((before < self._top_p).sum(-1, keepdim=True) - 1)
        return tokens.gather(-1, place)[:, 0]


def _loaded(path: Path, dtype: str, quantization: str, device: torch.device) -> Any:
    """Return the base model on ``device``.

    Raises:
        UsageError: The model cannot be loaded.
        FedSafetyError: The checkpoint lacks a tensor.
    """
    from benchmark.models.loading import complete_causal_lm, load_causal_lm

    if quantization:
        # Load it as training does, because other quantisation code makes another model.
        quantised: Any = load_causal_lm(path, dtype=dtype, quantization=quantization, device=str(device))
        return quantised.eval()
    try:
        model = complete_causal_lm(path, {"dtype": dtype})
    except FedSafetyError:
        raise
    except Exception as error:  # a damaged file may raise any kind of error
        if out_of_memory(error):
            raise
        raise UsageError(f"transformers cannot load {path}: {cause(path, error)}") from error
    return model.to(device).eval()


def _mergeable(model: Any, layers: Iterable[str]) -> MergedWeights:
    """Return the weights of ``model`` into which adapters can be merged."""
    weights: dict[str, Tensor] = {name: model.get_submodule(name).weight.data for name in layers}
    return MergedWeights(
        {name: weight.clone() for name, weight in weights.items()},
        {name: Place(name, slice(None)) for name in weights},
        lambda name, weight: weights[name].copy_(weight),
    )


def _contrasts(logits: Tensor, requests: Sequence[Request]) -> list[tuple[float, float] | None]:
    logprobs = logits.log_softmax(-1)
    return [
        None if r.contrast is None else (float(row[r.contrast[0]]), float(row[r.contrast[1]]))
        for row, r in zip(logprobs, requests, strict=True)
    ]
