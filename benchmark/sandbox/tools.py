"""Tools of a run's server and of its malicious clients, as a method's process may request them.

The list is fixed, arguments are checked and bounded, and the work is done by the same objects as for a method inside
the run's own process, so that use is metered alike. A refused use counts as a use of the instance's budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from attacks.base import AttackerResources
from benchmark.errors import FedSafetyError
from benchmark.sandbox.budget import ATTACK_EXAMPLES, Budget
from benchmark.sandbox.channel import ChannelError
from benchmark.sandbox.remote import rng_from, rng_state, rows_of
from benchmark.sandbox.untrusted import count, examples, items, number, random_state, record, text, texts
from benchmark.updates import LARGEST_RANK, AdapterLayout
from defenses.base import AlignmentSchedule, Objective, Server
from tasks.base import Automation, Example

Answer = tuple[Any, dict[str, Tensor]]


class ServerTools:
    """The tools of one server, for one instance.

    Args:
        server: Does the work.
        budget: Budget of the instance, shared by all its hooks.
    """

    def __init__(self, server: Server, budget: Budget) -> None:
        self._server, self._budget = server, budget
        self._tools: dict[str, Callable[[Any, dict[str, Tensor]], Answer]] = {
            "owned_aligned": lambda args, _: self._owned(self._server.owned_aligned, args),
            "owned_normal": lambda args, _: self._owned(self._server.owned_normal, args),
            "owned_contrast": lambda args, _: self._owned(self._contrast, args),
            "generate": self._generate,
            "generate_external": self._generate_external,
            "generate_unaligned": self._generate_unaligned,
            "finetune": self._finetune,
            "train_as_client": self._train_as_client,
            "start": lambda *_: (None, {"adapter": self._server.start()}),
            "fresh": lambda *_: (None, {"adapter": self._server.fresh()}),
            "alignment_examples": self._alignment_examples,
            "align": self._align,
            "gradient": self._gradient,
            "weights": self._weights,
            "feature_norms": self._feature_norms,
            "activations": self._activations,
            "first_token_scores": self._first_token_scores,
            "shuffle": self._shuffle,
        }

    @property
    def known(self) -> dict[str, Any]:
        """Values that are sent with the hook's call."""
        server = self._server
        return {
            "layout": layout_of(server.layout),
            "automation": automation_of(server.automation),
            "task_templates": list(server.task_templates),
            "examples": server.examples,
            "steps": server.steps,
            "learning_rate": server.learning_rate,
            "alignment_rows": server.alignment_rows,
            "alignment_schedule": schedule_of(server.alignment_schedule),
            "has_unaligned": server.has_unaligned,
            "scaling": server.scaling,
        }

    def answer(self, tool: str, args: object, tensors: dict[str, Tensor]) -> Answer:
        """Return a tool's answer.

        Raises:
            ChannelError: The tool is unknown, or its arguments are wrong.
            Exception: What the tool raises.
        """
        answer: Answer = _chosen(self._tools, tool)(args, tensors)
        return answer

    def _owned(self, tool: Callable[[int], list[Example]], args: Any) -> Answer:
        wanted = count(record(args, "count")["count"])
        self._budget.rows(wanted, self._server.examples)
        return rows_of(tool(wanted)), {}

    def _contrast(self, number: int) -> list[Example]:
        owned: Callable[[int], list[Example]] | None = getattr(self._server, "owned_contrast", None)
        if owned is None:
            raise FedSafetyError(f"{type(self._server).__name__} owns no look-alikes of harmful requests")
        return owned(number)

    def _generate(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        prompts, temperature = self._question(args)
        adapter = self._adapter(tensors) if tensors else None
        return self._server.generate(prompts, adapter=adapter, temperature=temperature), {}

    def _generate_external(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        del tensors
        prompts, temperature = self._question(args)
        return self._server.generate_external(prompts, temperature=temperature), {}

    def _generate_unaligned(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        del tensors
        prompts, temperature = self._question(args)
        return self._server.generate_unaligned(prompts, temperature=temperature), {}

    def _finetune(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        found = record(args, "examples", "objective", "steps", "rate", "template")
        rows = examples(found["examples"])
        steps = None if found["steps"] is None else count(found["steps"])
        self._budget.training(rows, self._server.examples, steps or 0)
        tuned = self._server.finetune(
            self._adapter(tensors),
            rows,
            objective=self._objective(found["objective"], tensors),
            steps=steps,
            rate=number(found["rate"]),
            template=text(found["template"]),
        )
        return None, {"adapter": tuned}

    def _train_as_client(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        found = record(args, "examples", "index")
        rows = examples(found["examples"])
        self._budget.training(rows, self._server.examples)
        return None, {"adapter": self._server.train_as_client(self._adapter(tensors), rows, count(found["index"]))}

    def _alignment_examples(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        del args, tensors
        self._budget.rows(self._server.alignment_rows, self._alignment_size)
        return rows_of(self._server.alignment_examples()), {}

    def _align(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        found = record(args, "examples", "objective")
        rows = examples(found["examples"])
        self._budget.training(rows, self._alignment_size)
        objective = self._objective(found["objective"], tensors)
        return None, {"adapter": self._server.align(self._adapter(tensors), rows, objective=objective)}

    def _gradient(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        found = record(args, "examples", "objective")
        rows = examples(found["examples"])
        self._budget.gradient(rows, self._alignment_size)
        objective = self._objective(found["objective"], tensors)
        gradient, loss = self._server.gradient(self._adapter(tensors), rows, objective=objective)
        return loss, {"gradient": gradient}

    def _weights(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        del tensors
        found = record(args, "layer", "aligned")
        self._budget.reading()
        return None, {"weights": self._server.weights(text(found["layer"]), aligned=bool(found["aligned"]))}

    def _feature_norms(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        found = record(args, "examples", "of_factors")
        rows, of_factors = examples(found["examples"]), bool(found["of_factors"])
        self._budget.gradient(rows, self._alignment_size)
        norms = self._server.feature_norms(self._adapter(tensors), rows, of_factors=of_factors)
        layout = self._server.layout
        return None, {"norms": torch.cat([norms[name] for name in (layout.names if of_factors else layout.layers)])}

    def _activations(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        found = record(args, "prompts", "layer")
        prompts = texts(found["prompts"])
        self._budget.answers(prompts, self._server.examples)
        return None, {"inputs": self._server.activations(self._adapter(tensors), prompts, text(found["layer"]))}

    def _first_token_scores(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        found = record(args, "prompts", "openings")
        prompts, openings = texts(found["prompts"]), [text(each, 200) for each in items(found["openings"], 100)]
        self._budget.answers(prompts, self._server.examples)
        return None, {"scores": self._server.first_token_scores(self._adapter(tensors), prompts, openings)}

    def _objective(self, value: Any, tensors: dict[str, Tensor]) -> Objective | None:
        """Return the objective that a request describes; its anchor is among the tensors."""
        if value is None:
            return None
        found = record(value, "ascend", "proximal", "perturbation", "token_weights")
        return Objective(
            ascend=bool(found["ascend"]),
            proximal=number(found["proximal"]),
            anchor=self._vector(tensors["anchor"]) if "anchor" in tensors else None,
            perturbation=number(found["perturbation"]),
            token_weights=tuple(number(weight) for weight in items(found["token_weights"], 1000)),
        )

    @property
    def _alignment_size(self) -> int:
        """Rows by which uses of the alignment's tools are bounded."""
        return max(self._server.examples, self._server.alignment_rows)

    def _shuffle(self, args: Any, tensors: dict[str, Tensor]) -> Answer:
        del tensors
        rows = examples(record(args, "examples")["examples"])
        self._budget.rows(len(rows), self._server.examples)
        return rows_of(self._server.shuffle(rows)), {}

    def _question(self, args: Any) -> tuple[list[str], float]:
        found = record(args, "prompts", "temperature")
        prompts, temperature = texts(found["prompts"]), _temperature(found["temperature"])
        self._budget.answers(prompts, self._server.examples)
        return prompts, temperature

    def _adapter(self, tensors: dict[str, Tensor]) -> Tensor:
        if "adapter" not in tensors or not tensors.keys() <= {"adapter", "anchor"}:
            raise ChannelError("it sent something else than an adapter")
        return self._vector(tensors["adapter"])

    def _vector(self, adapter: Tensor) -> Tensor:
        """Return a tensor if it is an adapter of the layout's layers, of its rank or of another that is served."""
        layout = self._server.layout
        flat = adapter.dim() == 1 and 1 <= layout.rank_of(len(adapter)) <= LARGEST_RANK
        if not flat or adapter.dtype != torch.float32:
            raise FedSafetyError(
                f"a tool was given an adapter of shape {tuple(adapter.shape)} and type {adapter.dtype}; an adapter is "
                f"a {torch.float32} vector of shape {(layout.dimension,)}, or of the layout's layers with another rank"
            )
        return adapter


class AttackerTools:
    """What malicious clients own, for one instance.

    Args:
        resources: Does the work.
        budget: Budget of the instance, shared by all its hooks.
    """

    def __init__(self, resources: AttackerResources, budget: Budget) -> None:
        self._resources, self._budget = resources, budget
        self._tools: dict[str, Callable[[Any], Any]] = {"unaligned": self._unaligned, "generate": self._generate}

    @property
    def known(self) -> dict[str, Any]:
        """Values that are sent with the hook's call."""
        return {"automation": automation_of(self._resources.automation)}

    def answer(self, tool: str, args: object, tensors: dict[str, Tensor]) -> Answer:
        """Return a tool's answer, with the state that it left its random stream in.

        Raises:
            ChannelError: The tool is unknown, or its arguments are wrong.
            Exception: What the tool raises.
        """
        del tensors
        return _chosen(self._tools, tool)(args), {}

    def _unaligned(self, args: Any) -> dict[str, Any]:
        found = record(args, "count", "rng")
        wanted = count(found["count"])
        self._budget.rows(wanted, ATTACK_EXAMPLES)
        rng = rng_from(random_state(found["rng"]))
        rows = rows_of(self._resources.unaligned(wanted, rng))
        return {"value": rows, "rng": rng_state(rng)}

    def _generate(self, args: Any) -> dict[str, Any]:
        found = record(args, "prompts", "temperature", "rng")
        prompts, temperature = texts(found["prompts"]), _temperature(found["temperature"])
        self._budget.answers(prompts, ATTACK_EXAMPLES)
        rng = rng_from(random_state(found["rng"]))
        answers = self._resources.generate(prompts, rng, temperature=temperature)
        return {"value": answers, "rng": rng_state(rng)}


def layout_of(layout: AdapterLayout) -> dict[str, Any]:
    """Return a layout as a message describes it."""
    return {"names": list(layout.names), "shapes": [list(shape) for shape in layout.shapes]}


def schedule_of(schedule: AlignmentSchedule | None) -> dict[str, Any] | None:
    """Return the steps of an alignment as a message describes them."""
    return None if schedule is None else {**asdict(schedule), "rates": list(schedule.rates)}


def automation_of(automation: Automation) -> dict[str, Any]:
    """Return the prompts of the automated pipelines as a message describes them."""
    return {
        "propose_harmful": list(automation.propose_harmful),
        "propose_normal": list(automation.propose_normal),
        "comply_hint": automation.comply_hint,
        "safety_reminder": automation.safety_reminder,
    }


def _chosen(tools: dict[str, Callable[..., Any]], tool: str) -> Callable[..., Any]:
    if tool not in tools:
        raise ChannelError("it asked for a tool that does not exist")
    return tools[tool]


def _temperature(value: object) -> float:
    temperature = number(value)
    if temperature < 0:
        raise FedSafetyError(f"temperature is {temperature}; it is 0 for greedy answers, or positive")
    return temperature
