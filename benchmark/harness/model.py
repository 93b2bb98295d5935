"""Model for lm-evaluation-harness: a benchmark engine with the benchmark's chat format and one adapter at a time.

Prompts take the form of training and probing, answers are greedy, and no text is cut silently. A prompt that does not
fit raises an error. An answer that ends at the model's length, before the task's own limit, is counted. The adapter is
an attribute, so the engine stays open while adapters change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from benchmark.errors import FedSafetyError, NotApplicableError
from benchmark.generation.base import LONGEST, Engine, Request, TokenScore
from benchmark.generation.canary import check_effect
from benchmark.generation.select import choose_engine, open_engine
from benchmark.generation.settings import EngineSettings
from benchmark.methods.pipeline import Pipeline
from benchmark.models.chat import ChatFormat
from benchmark.sandbox.proxy import Sandboxed
from defenses.base import Defense, Prompt

_ANSWER_LIMIT = 256
"""Largest number of tokens of an answer where a task sets no limit; lm-evaluation-harness' own default."""

_GREETING = "Name three colours, and tell why you like them."
"""An instruction on which an adapter must have an effect."""

_GREEDY_ALREADY = {"do_sample", "temperature", "until", "max_gen_toks", "top_p", "top_k", "min_p", "seed"}
"""Generation settings that are applied, or that have no effect on greedy answers."""


class TaskError(FedSafetyError):
    """A task cannot be scored, for example because it samples its answers. Other tasks are not affected."""


@register_model("fedsafety")
class FedSafetyLM(LM):  # type: ignore[misc]
    """A base model on an engine of the benchmark, with an adapter that may be exchanged at any time.

    lm-evaluation-harness also makes the model by name. Then ``base`` is the folder of the checkpoint, ``adapter`` the
    folder of a PEFT adapter, ``engine`` one of auto, vllm and transformers, and ``max_lora_rank`` the largest rank that
    is served.

    Args:
        engine: An open engine; it stays open.
        chat: The chat format of the engine's checkpoint.
        max_length: Largest number of tokens of a sequence; the model's limit by default.

    Attributes:
        adapter: Folder of the adapter that answers, or ``None`` for the base model.
        cut: Answers, by task, that ended at the model's length before the task's own limit.
    """

    def __init__(self, engine: Engine, chat: ChatFormat, max_length: int | None = None) -> None:
        super().__init__()
        self.engine = engine
        self.chat = chat
        self.max_length = max_length or chat.max_length
        self.adapter: Path | None = None
        self.cut: Counter[str] = Counter()
        self._servers: list[tuple[str, Defense]] = []
        self._fixed: dict[str, str] = {}

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> FedSafetyLM:
        """Return a model from ``base=FOLDER,adapter=FOLDER,engine=NAME``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> FedSafetyLM:
        """Return a model from the mapping of those arguments. The engine chooses batch sizes and devices itself.

        Raises:
            TaskError: An argument is unknown or of the wrong type, ``base`` is missing, or a folder does not exist.
            FedSafetyError: The checkpoint cannot be loaded, or the adapter cannot be applied or has no effect.
        """
        del additional_config
        names = {"base", "adapter", "engine", "max_lora_rank"}
        if "base" not in arg_dict or not set(arg_dict) <= names:
            raise TaskError(
                f"the model 'fedsafety' got the arguments {sorted(arg_dict)}; it needs base, the folder of a "
                f"checkpoint, and takes {', '.join(sorted(names))}"
            )
        rank = arg_dict.get("max_lora_rank", 64)
        if type(rank) is not int or rank < 1:
            raise TaskError(f"the argument max_lora_rank is {rank!r:.80}; give a whole number from 1")
        for name in sorted(arg_dict.keys() & {"base", "adapter"}):
            if not isinstance(arg_dict[name], str | Path) or not Path(arg_dict[name]).is_dir():
                raise TaskError(
                    f"the argument {name} is {arg_dict[name]!r:.80}, which is no folder; give a folder's path"
                )
        model = open_model(Path(arg_dict["base"]), arg_dict.get("engine", "auto"), rank)
        if "adapter" in arg_dict:
            model.adapter = Path(arg_dict["adapter"])
            # The adapter of another program has no canary, and an engine that ignored it would answer fluently.
            with ExitStack() as opened:
                opened.enter_context(model.engine)
                check_effect(model.engine, model.adapter, model.chat.prompt_ids(_GREETING))
                opened.pop_all()
        return model

    def serve(self, adapter: Path | None, stage: Pipeline | None = None) -> None:
        """Answer with ``adapter`` from now on, behind the serving members of ``stage``."""
        self.close()
        self.adapter = adapter
        self.cut.clear()
        self._fixed.clear()
        self._servers = [(entry.info.id, entry.create()) for entry in stage.servers] if stage else []

    def close(self) -> None:
        """End the processes of sandboxed serving members. The engine stays open."""
        for _, defense in self._servers:
            if isinstance(defense, Sandboxed):
                defense.close()
        self._servers = []

    @property
    def tokenizer_name(self) -> str:
        """Digest of the chat format, on which a task's cached prompts depend."""
        return self.chat.digest

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the checkpoint's chat template; it is the only one."""
        del chat_template
        return str(self.chat.tokenizer.chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the prompt of a conversation, with its last user turn as it is served."""
        if not self._servers:
            return render(self.chat, chat_history, add_generation_prompt)
        last = max(index for index, turn in enumerate(chat_history) if turn["role"] == "user")
        prompt = self._served(chat_history[last]["content"])
        turns = [*chat_history]
        turns[last] = {**turns[last], "content": prompt.instruction}
        text = render(self.chat, turns, add_generation_prompt)
        if prompt.answer is not None:
            self._fixed[text] = prompt.answer
        return text

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the greedy answer to each prompt, ended before the first of the task's stop strings.

        Raises:
            TaskError: A task samples its answers, or a prompt does not fit.
        """
        del disable_tqdm
        settings = [self._settings(request) for request in requests]
        prompts = [self._ids(request.args[0]) for request in requests]
        self._check_fit(requests, [len(prompt) for prompt in prompts], self.max_length - 1)
        distinct = {
            (prompt, min(limit, self.max_length - len(prompt))): None
            for request, prompt, (_, limit) in zip(requests, prompts, settings, strict=True)
            if request.args[0] not in self._fixed
        }
        engine_requests = [Request(prompt, limit, self.adapter) for prompt, limit in distinct]
        answers = dict(zip(distinct, self.engine.generate(engine_requests), strict=True))
        texts = []
        for request, prompt, (until, limit) in zip(requests, prompts, settings, strict=True):
            text = self._fixed.get(request.args[0])
            if text is None:
                room = self.max_length - len(prompt)
                answer = answers[prompt, min(limit, room)]
                text = postprocess_generated_text(answer.text, until, None)
                self.cut[request.task_name or ""] += not answer.finished and room < limit and text == answer.text
            texts.append(text)
        return texts

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) the continuation's log-probability and whether it is greedy.

        Raises:
            TaskError: A context with its continuation does not fit.
            NotApplicableError: A serving member changes the prompt or the answer.
        """
        del disable_tqdm
        for request in requests:
            self._check_that_the_model_speaks(request.args[0])
        pairs = [self._pair(*request.args) for request in requests]
        scores = self._scores(requests, pairs)
        return [(sum(s.logprob for s in tokens), all(s.greedy for s in tokens)) for tokens in scores]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text. A text longer than the model's length is scored in windows.

        Raises:
            NotApplicableError: A serving member rewrites prompts, and a bare text has no prompt.
        """
        del disable_tqdm
        totals = []
        for request in requests:
            self._check_that_the_model_speaks("")
            ids = list(self.chat.encode(self.chat.plain(request.args[0])))
            # Leave two tokens of the model's length free: the prefix, and the token that an engine may generate.
            windows = get_rolling_token_windows(ids, self._prefix, self.max_length - 2, context_len=1)
            pairs = [(tuple(context), tuple(predicted)) for context, predicted in map(make_disjoint_window, windows)]
            scores = self._scores([request] * len(pairs), pairs)
            totals.append(sum(s.logprob for tokens in scores for s in tokens))
        return totals

    def _served(self, instruction: str) -> Prompt:
        """Return the prompt of an instruction after the serving members."""
        prompt = Prompt(instruction)
        for name, defense in self._servers:
            prompt = prompt if prompt.answer is not None else defense.serve(prompt)
            if not isinstance(prompt, Prompt) or not isinstance(prompt.instruction, str):
                raise TaskError(f"serve() of {name!r} returned {prompt!r:.80}; return a Prompt")
        return prompt

    def _settings(self, request: Instance) -> tuple[list[str], int]:
        """Return the stop strings and the answer limit of a request."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(request.args[1], _ANSWER_LIMIT))
        if settings["do_sample"] or settings.get("num_beams", 1) != 1:
            raise TaskError(
                f"task {request.task_name!r} asks for sampled answers ({request.args[1]}), but all answers are greedy "
                f"here; copy its YAML file, set do_sample: false in generation_kwargs, and name the copy's folder with "
                f"--task-path"
            )
        unknown = sorted(set(settings) - _GREEDY_ALREADY - {"num_beams"})
        if unknown:
            raise TaskError(
                f"task {request.task_name!r} sets {unknown[0]!r} in generation_kwargs, which the engines do not know; "
                f"copy its YAML file without that, and name the copy's folder with --task-path"
            )
        return [stop for stop in settings["until"] if stop], int(settings["max_gen_toks"])

    def _scores(
        self, requests: Sequence[Instance], pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> list[list[TokenScore]]:
        """Return the scores of each pair's second part."""
        sequences = [context + continuation for context, continuation in pairs]
        # Leave one token of the model's length free because an engine may have to generate a token.
        self._check_fit(requests, [len(sequence) for sequence in sequences], self.max_length - 1)
        distinct = list(dict.fromkeys(sequence for sequence in sequences if len(sequence) > 1))
        scores = dict(zip(distinct, self.engine.scores([(s, self.adapter) for s in distinct]), strict=True))
        return [
            scores[sequence][len(sequence) - 1 - len(continuation) :] if continuation else []
            for sequence, (_, continuation) in zip(sequences, pairs, strict=True)
        ]

    def _pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the token ids of both, encoded as one text if the context keeps its tokens.

        Otherwise each is encoded separately, as in training; for example if two words would merge into one token.
        """
        continuation = self.chat.plain(continuation)
        if not context:
            return (self._prefix,), self.chat.encode(continuation)
        # A space between the two belongs to the continuation, as in lm-evaluation-harness.
        start = self.chat.encode(context.rstrip() or context)
        whole = self.chat.encode(context + continuation)
        if whole[: len(start)] == start and len(whole) > len(start):
            return start, whole[len(start) :]
        return self._ids(context), self.chat.encode(continuation)

    def _ids(self, context: str) -> tuple[int, ...]:
        return self.chat.encode(context) or (self._prefix,)

    @property
    def _prefix(self) -> int:
        """The token before the first one of a bare text."""
        start = self.chat.tokenizer.bos_token_id
        return self.chat.eos_id if start is None else int(start)

    def _check_fit(self, requests: Sequence[Instance], lengths: Sequence[int], limit: int) -> None:
        too_long = [(length, request.task_name) for length, request in zip(lengths, requests, strict=True)]
        too_long = [(length, name) for length, name in too_long if length > limit]
        if too_long:
            length, name = max(too_long, key=lambda item: item[0])
            raise TaskError(
                f"{len(too_long)} of {len(lengths)} prompts do not fit the model: the longest, of task {name!r}, takes "
                f"{length} tokens, and the model has room for {limit}; nothing is cut off, so choose another task or "
                f"fewer examples in the prompt (num_fewshot in a copy of its YAML file, named with --task-path)"
            )

    def _check_that_the_model_speaks(self, context: str) -> None:
        if self._servers and (not context or context in self._fixed):
            raise NotApplicableError(
                f"{self._servers[-1][0]} {'answers itself' if context else 'rewrites prompts'} when it serves, so the "
                f"model's probabilities are not those of what is served"
            )


def open_model(base: Path, engine: str, max_lora_rank: int) -> FedSafetyLM:
    """Return a model over the checkpoint in ``base`` on a newly opened engine."""
    chat = ChatFormat(base)
    longest = min(chat.max_length, LONGEST)
    settings = EngineSettings(max_lora_rank=max_lora_rank, max_length=longest)
    opened = open_engine(choose_engine(engine), base, settings)
    return FedSafetyLM(opened, chat, longest)


def render(chat: ChatFormat, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Return a conversation as one prompt; a template without a system turn gets its text before the first question."""
    turns = [dict(message) for message in messages]
    try:
        return chat.render(turns, answer_follows=add_generation_prompt)
    except TemplateError:
        if len(turns) < 2 or (turns[0]["role"], turns[1]["role"]) != ("system", "user"):
            raise
        first = {"role": "user", "content": f"{turns[0]['content'].strip()}\n\n{turns[1]['content']}"}
        return chat.render([first, *turns[2:]], answer_follows=add_generation_prompt)
