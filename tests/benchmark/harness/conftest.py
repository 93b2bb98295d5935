"""The micro world's chat model with two random adapters, and a folder of YAML tasks over local data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmark.generation.base import Engine
from benchmark.generation.settings import EngineSettings
from benchmark.generation.transformers_engine import TransformersEngine
from benchmark.harness.model import FedSafetyLM
from benchmark.models.chat import ChatFormat
from tasks.base import task_worlds

RANK = 4

DOCUMENTS = [
    {
        "question": "is apple a fruit or an animal ?",
        "choices": ["apple is a fruit .", "apple is an animal ."],
        "gold": 0,
    },
    {"question": "is cat a fruit or an animal ?", "choices": ["cat is a fruit .", "cat is an animal ."], "gold": 1},
    {"question": "translate red cat .", "choices": ["red cat .", "list three ."], "gold": 0},
    {"question": "write code to sort cat .", "choices": ["def print ( cat ) ;", "def sort ( cat ) ;"], "gold": 1},
]

CHOICE = """
task: local_choice
tag: local_tag
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: gold
num_fewshot: 1
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 3.1}}
"""
ANSWER = """
task: local_answer
tag: local_tag
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
output_type: generate_until
doc_to_text: question
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{do_sample: false, temperature: 0.0, max_gen_toks: 12, until: [" is"]}}
filter_list:
  - {{name: first, filter: [{{function: take_first}}]}}
  - {{name: lower, filter: [{{function: lowercase}}, {{function: take_first}}]}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
ROLLING = """
task: local_rolling
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
"""
GROUP = """
group: local_group
task: [local_choice, local_answer]
metadata: {version: 2}
"""


@pytest.fixture(scope="session")
def local_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of YAML tasks whose documents lie beside them."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def write_tasks(folder: Path) -> Path:
    """Write the local tasks and their documents into ``folder``; return it."""
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    for name, text in (("choice", CHOICE), ("answer", ANSWER), ("rolling", ROLLING)):
        (folder / f"{name}.yaml").write_text(text.format(data=data, cache=folder / "cache"))
    (folder / "group.yaml").write_text(GROUP)
    return folder


@pytest.fixture(scope="session")
def base() -> Path:
    """The micro world's aligned model."""
    return task_worlds.get("micro").create().model_path("chat")


@pytest.fixture(scope="session")
def chat(base: Path) -> ChatFormat:
    return ChatFormat(base)


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random adapters on all linear layers, strong enough to change answers."""
    root = tmp_path_factory.mktemp("adapters")
    return save_adapter(root / "one", base, seed=1), save_adapter(root / "two", base, seed=2)


def save_adapter(folder: Path, base: Path, *, seed: int) -> Path:
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=8, target_modules="all-linear"))
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.12)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def transformers_engine(base: Path) -> Iterator[Engine]:
    with TransformersEngine(base, device="cpu") as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm_engine(base: Path) -> Iterator[Engine]:
    from benchmark.generation.vllm_engine import VllmEngine

    with VllmEngine(base, EngineSettings(max_lora_rank=RANK, max_batch=64)) as engine:
        yield engine


@pytest.fixture(params=[pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow]), "transformers"])
def model(request: pytest.FixtureRequest, chat: ChatFormat) -> FedSafetyLM:
    """The model on each engine in turn."""
    return FedSafetyLM(request.getfixturevalue(f"{request.param}_engine"), chat)


@pytest.fixture
def plain_model(transformers_engine: Engine, chat: ChatFormat) -> FedSafetyLM:
    return FedSafetyLM(transformers_engine, chat)
