"""Tools of the server and the attacker inside a method's process; each use is a request to the run."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark import errors
from benchmark.server import AlignmentSchedule
from benchmark.updates import AdapterLayout
from tasks.base import Automation, DataKind, Example

Ask = Callable[..., tuple[Any, dict[str, Tensor]]]
"""``ask(tool, args, tensors)`` returns the run's answer or raises the tool's error."""


class RemoteServer:
    """The server's tools; has the methods of :class:`defenses.base.Server`.

    Args:
        ask: Sends a request to the run.
        known: Values that came with the hook's call: layout, automation, task_templates, examples, steps,
            learning_rate, alignment_rows, alignment_schedule, has_unaligned, scaling.
    """

    def __init__(self, ask: Ask, known: dict[str, Any]) -> None:
        self._ask = ask
        self.layout = layout_from(known["layout"])
        self.automation = automation_from(known["automation"])
        self.task_templates = tuple(known["task_templates"])
        self.examples, self.steps = int(known["examples"]), int(known["steps"])
        self.learning_rate = float(known["learning_rate"])
        self.alignment_rows = int(known["alignment_rows"])
        self.alignment_schedule = schedule_from(known["alignment_schedule"])
        self.has_unaligned = bool(known["has_unaligned"])
        self.scaling = float(known["scaling"])

    def start(self) -> Tensor:
        """Return the adapter that the federation starts from (flat, ``[d]``), before any defense replaces it."""
        return self._ask("start", {}, {})[1]["adapter"]

    def fresh(self) -> Tensor:
        """Return the adapter without effect from which the suite's alignment trains, or else the start."""
        return self._ask("fresh", {}, {})[1]["adapter"]

    def owned_aligned(self, count: int) -> list[Example]:
        """Return harmful-instruction → refusal pairs the server owns."""
        return self._examples("owned_aligned", count=int(count))

    def owned_normal(self, count: int) -> list[Example]:
        """Return normal rows the server owns."""
        return self._examples("owned_normal", count=int(count))

    def owned_contrast(self, count: int) -> list[Example]:
        """Return benign look-alikes of harmful requests that the server owns."""
        return self._examples("owned_contrast", count=int(count))

    def generate(self, prompts: Sequence[str], *, adapter: Tensor | None, temperature: float) -> list[str]:
        """Return answers of the global model with ``adapter`` (flat, ``[d]``).

        ``None`` stands for the starting model, aligned if the suite aligns it. Zeros stand for the bare base model.
        """
        tensors = {} if adapter is None else {"adapter": adapter}
        answers, _ = self._ask("generate", {"prompts": list(prompts), "temperature": float(temperature)}, tensors)
        return list(answers)

    def generate_external(self, prompts: Sequence[str], *, temperature: float) -> list[str]:
        """Return answers of an external aligned model."""
        answers, _ = self._ask("generate_external", {"prompts": list(prompts), "temperature": float(temperature)}, {})
        return list(answers)

    def generate_unaligned(self, prompts: Sequence[str], *, temperature: float) -> list[str]:
        """Return answers of the model from which the start model was aligned, or else of the bare start model."""
        answers, _ = self._ask("generate_unaligned", {"prompts": list(prompts), "temperature": float(temperature)}, {})
        return list(answers)

    def weights(self, layer: str, *, aligned: bool = True) -> Tensor:
        """Return the weights ``[out, in]`` of a layer of the start model, or of the model before its alignment."""
        return self._ask("weights", {"layer": str(layer), "aligned": bool(aligned)}, {})[1]["weights"]

    def feature_norms(
        self, adapter: Tensor, examples: Sequence[Example], *, of_factors: bool = False
    ) -> dict[str, Tensor]:
        """Return the L2 norms of each adapted layer's input features, or of each factor's input features.

        They are over all tokens of the examples.
        """
        args = {"examples": rows_of(examples), "of_factors": bool(of_factors)}
        _, tensors = self._ask("feature_norms", args, {"adapter": adapter})
        layout = self.layout.of_rank(self.layout.rank_of(len(adapter)))
        names, shapes = (layout.names, layout.shapes) if of_factors else (layout.layers, layout.shapes[::2])
        return dict(zip(names, torch.split(tensors["norms"], [shape[1] for shape in shapes]), strict=True))

    def activations(self, adapter: Tensor, prompts: Sequence[str], layer: str) -> Tensor:
        """Return the inputs ``[prompts, in]`` of an adapted layer at the last token of each prompt."""
        args = {"prompts": list(prompts), "layer": str(layer)}
        return self._ask("activations", args, {"adapter": adapter})[1]["inputs"]

    def first_token_scores(self, adapter: Tensor, prompts: Sequence[str], openings: Sequence[str]) -> Tensor:
        """Return the log-probabilities ``[prompts, openings]`` with which answers begin as the openings do."""
        args = {"prompts": list(prompts), "openings": list(openings)}
        return self._ask("first_token_scores", args, {"adapter": adapter})[1]["scores"]

    def finetune(
        self,
        adapter: Tensor,
        examples: Sequence[Example],
        *,
        objective: Any = None,
        steps: int | None = None,
        rate: float = 1.0,
        template: str = "",
    ) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) fine-tuned on ``examples`` with the suite's post-hoc settings."""
        described, tensors = _described(objective)
        args = {
            "examples": rows_of(examples),
            "objective": described,
            "steps": None if steps is None else int(steps),
            "rate": float(rate),
            "template": str(template),
        }
        return self._ask("finetune", args, {"adapter": adapter, **tensors})[1]["adapter"]

    def train_as_client(self, adapter: Tensor, examples: Sequence[Example], index: int) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` as a client trains in round ``index``, from 0."""
        args = {"examples": rows_of(examples), "index": int(index)}
        return self._ask("train_as_client", args, {"adapter": adapter})[1]["adapter"]

    def alignment_examples(self) -> list[Example]:
        """Return the rows on which the suite aligns its start model; none if it does not align it."""
        return self._examples("alignment_examples")

    def align(self, adapter: Tensor, examples: Sequence[Example], *, objective: Any = None) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` with the settings of the suite's alignment."""
        described, tensors = _described(objective)
        args = {"examples": rows_of(examples), "objective": described}
        return self._ask("align", args, {"adapter": adapter, **tensors})[1]["adapter"]

    def gradient(self, adapter: Tensor, examples: Sequence[Example], *, objective: Any = None) -> tuple[Tensor, float]:
        """Return the gradient ``[d]`` of an objective on ``examples`` at ``adapter``, and the cross-entropy in nats."""
        described, tensors = _described(objective)
        args = {"examples": rows_of(examples), "objective": described}
        loss, tensors = self._ask("gradient", args, {"adapter": adapter, **tensors})
        return tensors["gradient"], float(loss)

    def shuffle(self, examples: Sequence[Example]) -> list[Example]:
        """Return the rows in an order drawn from the defense's own stream."""
        return self._examples("shuffle", examples=rows_of(examples))

    def _examples(self, tool: str, **args: Any) -> list[Example]:
        rows, _ = self._ask(tool, args, {})
        return examples_from(rows)


def _described(objective: Any) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Return a :class:`defenses.base.Objective` as a message describes it, and its anchor if it has one."""
    if objective is None:
        return None, {}
    described = {
        "ascend": bool(objective.ascend),
        "proximal": float(objective.proximal),
        "perturbation": float(objective.perturbation),
        "token_weights": [float(weight) for weight in objective.token_weights],
    }
    return described, {} if objective.anchor is None else {"anchor": objective.anchor}


class RemoteResources:
    """What malicious clients own; has the methods of :class:`attacks.base.AttackerResources`.

    Args:
        ask: Sends a request to the run.
        known: Values that came with the hook's call: automation.
    """

    def __init__(self, ask: Ask, known: dict[str, Any]) -> None:
        self._ask = ask
        self.automation = automation_from(known["automation"])

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return public harmful-instruction → compliance pairs."""
        return examples_from(self._drawn("unaligned", rng, count=int(count)))

    def generate(self, prompts: Sequence[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        """Return the attacker-controlled model's answers; temperature 0 is greedy."""
        return list(self._drawn("generate", rng, prompts=list(prompts), temperature=float(temperature)))

    def leaks_evaluation(self, text: str) -> bool:
        """Refuse, because answers for arbitrary texts would reveal the evaluation items.

        Raises:
            FedSafetyError: Always.
        """
        del text
        raise errors.FedSafetyError(
            "leaks_evaluation() is not answered to a method in a sandbox, since its answers would tell the evaluation "
            "items; such rows are counted without it"
        )

    def _drawn(self, tool: str, rng: np.random.Generator, **args: Any) -> Any:
        """Return the answer of a tool that draws from ``rng``, which is then where the tool left it."""
        answer, _ = self._ask(tool, {**args, "rng": rng_state(rng)}, {})
        set_rng_state(rng, answer["rng"])
        return answer["value"]


def rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of a NumPy generator as JSON-like numbers.

    Raises:
        TypeError: It is not a generator of NumPy's default kind.
    """
    state: Any = rng.bit_generator.state if isinstance(rng, np.random.Generator) else None
    if not isinstance(state, dict) or state.get("bit_generator") != "PCG64":
        raise TypeError("a random stream is a NumPy generator of the default kind (PCG64), such as the given one")
    return {
        "state": int(state["state"]["state"]),
        "inc": int(state["state"]["inc"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def set_rng_state(rng: np.random.Generator, state: dict[str, int]) -> None:
    """Put a NumPy generator into a state that :func:`rng_state` returned."""
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": state["state"], "inc": state["inc"]},
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }


def rng_from(state: dict[str, int]) -> np.random.Generator:
    """Return a NumPy generator in a state that :func:`rng_state` returned."""
    rng = np.random.Generator(np.random.PCG64(0))
    set_rng_state(rng, state)
    return rng


def torch_generator_from(state: Tensor) -> torch.Generator:
    """Return a torch generator in a state that its ``get_state`` returned."""
    generator = torch.Generator()
    generator.set_state(state.clone())
    return generator


def rows_of(examples: Sequence[Example]) -> list[list[str]]:
    """Return examples as rows of instruction, response, kind and task.

    Raises:
        TypeError: One of them is something else.
    """
    for example in examples:
        if not isinstance(example, Example):
            raise TypeError(f"a training row is an Example, not {type(example).__name__}")
    return [[e.instruction, e.response, str(e.kind), e.task] for e in examples]


def examples_from(rows: Sequence[Sequence[str]]) -> list[Example]:
    """Return the examples of rows that :func:`rows_of` returned."""
    return [Example(instruction, response, DataKind(kind), task) for instruction, response, kind, task in rows]


def layout_from(data: dict[str, Any]) -> AdapterLayout:
    """Return the layout that the run described."""
    return AdapterLayout(tuple(data["names"]), tuple(tuple(shape) for shape in data["shapes"]))


def schedule_from(data: dict[str, Any] | None) -> AlignmentSchedule | None:
    """Return the steps of the alignment that the run described, if the suite has an alignment."""
    return None if data is None else AlignmentSchedule(**{**data, "rates": tuple(data["rates"])})


def automation_from(data: dict[str, Any]) -> Automation:
    """Return the prompts that the run described."""
    return Automation(
        tuple(data["propose_harmful"]), tuple(data["propose_normal"]), data["comply_hint"], data["safety_reminder"]
    )


def exception_from(kind: str, text: str) -> Exception:
    """Return an exception of the class called ``kind``, if that is one of ours or of Python's, with ``text``."""
    found = getattr(errors, kind, None) or getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(text)
        except TypeError:  # some of Python's take more than a text
            pass
    return RuntimeError(f"{kind}: {text}")
