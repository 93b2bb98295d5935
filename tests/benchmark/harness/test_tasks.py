"""Tasks are found by name wherever they lie, and identified by what they ask and how they score."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lm_eval.evaluator import evaluate
from lm_eval.utils import hash_string

from benchmark.errors import UsageError
from benchmark.harness.model import FedSafetyLM
from benchmark.harness.tasks import Identity, Probe, find_tasks, quiet
from benchmark.models.chat import ChatFormat

from .conftest import write_tasks

LOCAL = ["local_choice", "local_answer", "local_rolling"]


def identity(folder: Path, chat: ChatFormat, name: str = "local_answer") -> Identity:
    (probe,), failures = find_tasks([name], [folder])
    assert failures == {}
    return probe.identities(chat, None)[name]


def test_tasks_groups_and_tags_are_found_by_name(local_tasks: Path) -> None:
    found, failures = find_tasks(["micro_fact", "micro_tasks", "local_group", "local_tag", "micro_fact"], [local_tasks])
    assert failures == {}
    names = {probe.name: (sorted(probe.tasks), sorted(probe.groups)) for probe in found}
    assert names["micro_fact"] == (["micro_fact"], [])
    assert names["micro_tasks"][1] == ["micro_coarse", "micro_tasks"]
    assert len(names["micro_tasks"][0]) == 7
    assert names["local_group"] == (["local_answer", "local_choice"], ["local_group"])
    assert names["local_tag"] == (["local_answer", "local_choice"], [])


@pytest.mark.slow
def test_the_harness_own_tasks_are_known_too_and_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"unknown lm-evaluation-harness task 'hellaswagg'; did you mean 'hellaswag'\?"
    ):
        find_tasks(["micro_fact", "hellaswagg"])


def test_one_task_that_cannot_be_loaded_leaves_the_others(tmp_path: Path, local_tasks: Path) -> None:
    shutil.copy(local_tasks / "answer.yaml", tmp_path / "answer.yaml")
    text = (local_tasks / "choice.yaml").read_text()
    (tmp_path / "gone.yaml").write_text(text.replace("documents.jsonl", "gone.jsonl"))
    (tmp_path / "code.yaml").write_text(text.replace("local_choice", "runs_code") + "unsafe_code: true\n")
    (tmp_path / "needs.yaml").write_text(
        text.replace("local_choice", "needs") + "process_docs: !function no_such_package.function\n"
    )
    found, failures = find_tasks(["runs_code", "local_choice", "needs", "local_answer"], [tmp_path])
    assert [probe.name for probe in found] == ["local_answer"]
    assert list(failures) == ["runs_code", "local_choice", "needs"]
    assert "it runs code that the model writes" in failures["runs_code"]
    assert "FileNotFoundError" in failures["local_choice"]
    assert "HF_HOME" in failures["local_choice"]
    assert "no_such_package" in failures["needs"]


def test_a_folder_of_tasks_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        find_tasks(["micro_fact"], [tmp_path / "none"])
    with pytest.raises(UsageError, match=r"holds no \.yaml file"):
        find_tasks(["micro_fact"], [tmp_path])
    (tmp_path / "broken.yaml").write_text("task: [\n")
    with pytest.raises(UsageError, match=r"broken\.yaml is no YAML task"):
        find_tasks(["micro_fact"], [tmp_path])


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("name", [*LOCAL, "micro_fact"])
def test_the_task_hash_is_that_of_the_harness(
    name: str, limit: int | None, local_tasks: Path, plain_model: FedSafetyLM, chat: ChatFormat
) -> None:
    (probe,), _ = find_tasks([name], [local_tasks])
    found = probe.identities(chat, limit)[name].task_hash
    probe.rewind()
    with quiet():
        results = evaluate(
            lm=plain_model,
            task_dict={"tasks": dict(probe.tasks), "groups": {}},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
        )
    # As lm-evaluation-harness' own results files make it, from the samples it logs.
    samples = results["samples"][name]
    assert found == hash_string("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples))


def test_versions_are_those_of_the_metadata(local_tasks: Path, chat: ChatFormat) -> None:
    assert identity(local_tasks, chat, "local_choice").version == "3.1"
    assert identity(local_tasks, chat, "local_answer").version == "Yaml"
    (group,), _ = find_tasks(["local_group"], [local_tasks])
    assert group.identities(chat, None)["local_group"].version == "2"


def test_the_identity_follows_documents_prompts_and_scoring_but_not_the_place_of_the_data(
    tmp_path: Path, local_tasks: Path, chat: ChatFormat
) -> None:
    def changed(name: str, file: str, old: str, new: str) -> Identity:
        folder = tmp_path / name
        folder.mkdir()
        write_tasks(folder)
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))
        return identity(folder, chat)

    original = identity(local_tasks, chat)
    assert identity(local_tasks, chat) == original
    assert changed("same", "group.yaml", "version: 2", "version: 4") == original, "only the folder is another one"
    documents = changed("documents", "documents.jsonl", "translate red", "translate blue")
    assert (documents.task_hash != original.task_hash, documents.config_hash) == (True, original.config_hash)
    prompts = changed("prompts", "answer.yaml", "doc_to_text: question", "doc_to_text: 'say {{question}}'")
    assert prompts.task_hash != original.task_hash
    scoring = changed("scoring", "answer.yaml", 'until: [" is"]', 'until: [" an"]')
    assert (scoring.task_hash, scoring.config_hash != original.config_hash) == (original.task_hash, True)


def test_a_scoring_function_counts_by_its_source(tmp_path: Path, local_tasks: Path, chat: ChatFormat) -> None:
    found = []
    for number, source in enumerate(("return {'m': 1.0}", "return {'m': 1.0}  # the same", "return {'m': 0.0}")):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_tasks(folder)
        (folder / "rules.py").write_text(f"def score(doc, results):\n    {source}\n")
        text = (folder / "answer.yaml").read_text().replace("metric: exact_match", "metric: m")
        (folder / "answer.yaml").write_text(text + "process_results: !function rules.score\n")
        found.append(identity(folder, chat).config_hash)
    assert found[0] == found[1] != found[2]


def test_the_micro_tasks_score_depends_on_the_worlds_rules(chat: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmark.harness.tasks as module

    before = identity_of("micro_fact", chat)
    digests = {"tasks.micro.harness": "changed"}
    monkeypatch.setattr(module, "source_digest", lambda name: digests[name])
    assert identity_of("micro_fact", chat).config_hash != before.config_hash


def identity_of(name: str, chat: ChatFormat) -> Identity:
    (probe,), _ = find_tasks([name])
    assert isinstance(probe, Probe)
    return probe.identities(chat, None)[name]
