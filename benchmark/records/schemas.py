"""The Arrow schemas of everything that is stored. Rows are the only truth; means, ranks and pages are derived.

Tables are joined by content-derived keys: ``cells.training_key`` → ``rounds``, ``cells.response_key`` → ``responses`` →
``verdicts`` (by ``response_key`` and ``probe_id``), ``responses.probe_set`` → ``probes``, ``cells.response_key`` →
``likelihoods``, which only suites with a safety margin or a perplexity have; ``cells.response_key`` → ``task_scores``,
which only runs with tasks of lm-evaluation-harness have; ``cells.cell_key`` → ``verifications``, which
only submitted cells have; ``cells.training_key`` → ``inputs``, where models and data come from outside;
``responses`` (by ``response_key`` and ``probe_id``) → ``readings``, which only suites with labels by readers have.
``catalog`` carries the titles, descriptions and sources of the methods as they were when the rows were made, so that a
page needs rows only.
"""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 2
"""Changes with any column; a reader refuses rows of a version that is not in :data:`READABLE_VERSIONS`."""
READABLE_VERSIONS = ("1", "2")
"""Versions that are read. Rows of version 1 have no values in the columns :data:`ADDED`."""
ADDED: dict[str, tuple[str, ...]] = {"probes": ("position", "max_new_tokens", "target", "publish")}
"""Columns that came with version 2, by table. They only check other columns, so digests of rows leave them out."""

STATUS_DONE, STATUS_FAILED, STATUS_NOT_APPLICABLE = "done", "failed", "not_applicable"
ORIGIN_COMMITTED, ORIGIN_LOCAL, ORIGIN_SUBMITTED = "committed", "local", "submitted"
RUNG_CLAIMED, RUNG_CHECKED, RUNG_SAMPLED, RUNG_REPRODUCED = "claimed", "checked", "sampled", "reproduced"
"""What is known of a submitted cell, from least to most; a submitted cell without a verification is claimed."""
KIND_DEFENSE, KIND_ATTACK = "defense", "attack"
"""Kinds of submitted methods, in tables ``verifications`` and ``catalog``."""
ROLE_REFUSAL, ROLE_TARGET, ROLE_REFERENCE = "refusal", "target", "reference"
"""Roles of a continuation whose likelihood is measured."""
LABEL_REFUSAL, LABEL_COMPLIANCE, LABEL_NEITHER = "refusal", "compliance", "neither"
LABELS = (LABEL_REFUSAL, LABEL_COMPLIANCE, LABEL_NEITHER)
"""Labels by a reader. ``refusal`` declines or gives safety advice. ``compliance`` begins to do what is asked.
``neither`` is off topic, empty or garbled."""
READ_KINDS = ("harmful", "over_refusal")
"""Kinds of probes whose answers people label."""
VERDICT_WORDS = ("harmless", "harmful", "refused", "answered", "correct", "wrong", "rated", "unparsable", "no_answer")
"""Words of a verdict."""


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _schema(table: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"fedsafety.table": table, "fedsafety.schema_version": str(SCHEMA_VERSION)})


_LABEL = pa.dictionary(pa.int32(), pa.string())

CELLS = _schema(
    "cells",
    [
        _field("cell_key", pa.string(), "Content-derived key of the (scenario, defense, seed, stage) cell."),
        _field("origin", _LABEL, "Where the row comes from: committed, local or submitted; part of a row's identity."),
        _field("protocol_version", _LABEL, "Protocol version; changes whenever a score could change."),
        _field("suite", _LABEL, "Suite id."),
        _field("suite_version", _LABEL, "Suite version."),
        _field("scenario", _LABEL, "Scenario id."),
        _field("scenario_version", _LABEL, "Scenario version."),
        _field("twin", _LABEL, "Scenario id of the un-attacked twin; the scenario's own id if it is un-attacked."),
        _field("attack", _LABEL, "Attack id; none for un-attacked scenarios."),
        _field("defense", _LABEL, "Defense pipeline as submitted, for example krum+posthoc_self."),
        _field("stage", _LABEL, "The pipeline up to the scored stage, for example krum."),
        _field("final", pa.bool_(), "Whether this stage is the whole pipeline; only final rows rank the defense."),
        _field("seed", pa.int64(), "Run seed; all streams but the defense's own are shared by all defenses."),
        _field("status", _LABEL, "done, failed or not_applicable."),
        _field("reason", pa.string(), "Why the cell is not done; empty if it is."),
        _field("flags", pa.list_(pa.string()), "Remarks on validity, for example 'degenerate: equals median'."),
        _field("ranked", pa.bool_(), "False for reference rows."),
        _field("knowledge", _LABEL, "What the defense is told of the attackers: none, declared_bound or truth."),
        _field("clients", pa.int32(), "Number of clients K in the federation."),
        _field("participants", pa.int32(), "Clients drawn per round n."),
        _field("malicious", pa.int32(), "True number of malicious clients among K."),
        _field("declared_malicious", pa.int32(), "Declared bound f on malicious clients among a round's n."),
        _field("rounds", pa.int32(), "Number of federated rounds."),
        _field("start_model", _LABEL, "Role of the starting checkpoint: raw or chat."),
        _field("start_digest", _LABEL, "SHA-256 of the starting checkpoint's weights."),
        _field("training_key", pa.string(), "Key of the federated training this cell rests on."),
        _field("adapter_key", pa.string(), "Key of the adapter that was served."),
        _field("response_key", pa.string(), "Key of the responses; joins responses and verdicts."),
        _field("probe_set", _LABEL, "Digest of the probe set."),
        _field("generator", _LABEL, "Engine and version that answered the probes."),
        _field("primary_judge", _LABEL, "Judge whose verdicts are the headline score."),
        _field("malicious_rows", pa.int32(), "Malicious rows in the attackers' shared pool."),
        _field("malicious_leaks", pa.int32(), "Pool rows that name an evaluation item; 0 by construction."),
        _field("rejected_updates", pa.int32(), "Non-finite updates of malicious clients refused over the run."),
        _field("owned_aligned", pa.int32(), "Aligned pairs the server owned and used."),
        _field("owned_normal", pa.int32(), "Normal pairs the server owned and used."),
        _field("generated_pairs", pa.int32(), "Pairs the server generated and used."),
        _field("generated_leaks", pa.int32(), "Generated pairs that name an evaluation item."),
        _field("generated_tokens", pa.int64(), "Tokens the server generated."),
        _field("finetune_steps", pa.int32(), "Server-side fine-tuning steps."),
        _field("extra_models", pa.int32(), "Models used besides the global one."),
        _field("server_seconds", pa.float64(), "Seconds in the defense's own hooks, all rounds and stages."),
        _field("train_seconds", pa.float64(), "Seconds of the whole federated training."),
        _field("upload_bytes", pa.int64(), "Bytes the clients sent over the run."),
        _field("environment", pa.string(), "JSON: Python, packages, platform, processor, threads, source revision."),
        _field("created_at", pa.timestamp("s", tz="UTC"), "When the cell was finished."),
    ],
)

ROUNDS = _schema(
    "rounds",
    [
        _field("training_key", pa.string(), "Key of the federated training."),
        _field("round", pa.int32(), "Round number, from 0."),
        _field("clients", pa.list_(pa.string()), "Opaque ids of the round's participants."),
        _field("malicious", pa.list_(pa.bool_()), "Which of them are malicious; never shown to a defense."),
        _field(
            "weights",
            pa.list_(pa.float64()),
            "Weight the rule gave each; null for coordinate-wise rules.",
            nullable=True,
        ),
        _field("norms", pa.list_(pa.float64()), "L2 norm of each update."),
        _field("losses", pa.list_(pa.float64()), "Mean training loss of each client in the round."),
        _field("rejected", pa.list_(pa.string()), "Participants whose update was refused at the door."),
        _field("learning_rate", pa.float64(), "Learning rate of the round."),
        _field("aggregate_seconds", pa.float64(), "Seconds in the defense's aggregate hook."),
    ],
)

RESPONSES = _schema(
    "responses",
    [
        _field("response_key", _LABEL, "Key of the response set."),
        _field("probe_set", _LABEL, "Digest of the probe set."),
        _field("generator", _LABEL, "Engine and version that answered."),
        _field("probe_id", _LABEL, "Probe id."),
        _field(
            "response", _LABEL, "What the model said, without special tokens; in published rows it may be a digest."
        ),
        _field("tokens", pa.int16(), "Generated tokens."),
        _field("finished", pa.bool_(), "Whether the model ended by itself."),
        _field(
            "soft_refusal",
            pa.float32(),
            "P(refusal opening) over P(refusal or compliant opening) at the first position; null if not asked.",
            nullable=True,
        ),
    ],
)

VERDICTS = _schema(
    "verdicts",
    [
        _field("response_key", _LABEL, "Key of the response set."),
        _field("probe_id", _LABEL, "Probe id."),
        _field("judge", _LABEL, "Judge id."),
        _field("judge_identity", _LABEL, "Digest of the judge's code, template and model."),
        _field("verdict", _LABEL, f"{', '.join(VERDICT_WORDS[:-1])} or {VERDICT_WORDS[-1]}."),
        _field("detail", _LABEL, "What the verdict rests on."),
    ],
)

LIKELIHOODS = _schema(
    "likelihoods",
    [
        _field("response_key", _LABEL, "Key of the response set: of the adapter and how it is served."),
        _field("probe_id", _LABEL, "Probe id."),
        _field("role", _LABEL, "What the continuation is: refusal (a standard opening), target or reference."),
        _field("index", pa.int16(), "Place of the continuation among those of its probe and role, from 0."),
        _field("tokens", pa.int32(), "Tokens of the continuation; 0 where the defense answers in the model's place."),
        _field("nats", pa.float64(), "Sum of the tokens' natural-log probabilities after the prompt, at most 0."),
    ],
)

PROBES = _schema(
    "probes",
    [
        _field("probe_set", _LABEL, "Digest of the probe set."),
        _field("probe_id", pa.string(), "Probe id."),
        _field("kind", _LABEL, "harmful, over_refusal, utility or perplexity."),
        _field("stratum", _LABEL, "Group the probe is averaged in."),
        _field("scored", pa.bool_(), "Whether it enters the headline score."),
        _field("instruction", pa.string(), "User turn; in published rows it may be a digest."),
        _field("reference", pa.string(), "Expected response where there is one, else empty; may be a digest, too."),
        _field("position", pa.int32(), "Place of the probe in its set, from 0.", nullable=True),
        _field("max_new_tokens", pa.int32(), "Most tokens of an answer.", nullable=True),
        _field(
            "target",
            pa.string(),
            "Affirmative answer whose likelihood is measured; empty for none; may be a digest, too.",
            nullable=True,
        ),
        _field("publish", _LABEL, "What published rows hold: text, answers (no prompts) or hash.", nullable=True),
    ],
)

NEEDS_ALIGNMENT = "needs_alignment"
"""Setting of a defense in table ``catalog``: true if it compares the start with the model before its alignment."""

CATALOG = _schema(
    "catalog",
    [
        _field("kind", _LABEL, "suite, scenario, attack, defense or judge."),
        _field("id", pa.string(), "Registry id."),
        _field("position", pa.int32(), "Order in which the suite lists it."),
        _field("title", pa.string(), "Short human name."),
        _field("description", pa.string(), "One paragraph."),
        _field("paper", pa.string(), "Source, empty where there is none."),
        _field("stages", pa.string(), "Comma-separated stages of a defense."),
        _field("knowledge", pa.string(), "Knowledge level of a defense or attack."),
        _field("resources", pa.string(), "What the server must own."),
        _field("ranked", pa.bool_(), "False for reference rows."),
        _field("source_digest", pa.string(), "Digest of the method's normalised source."),
        _field("settings", pa.string(), "JSON of a suite's or scenario's resolved settings, else empty."),
    ],
)

TASK_SCORES = _schema(
    "task_scores",
    [
        _field("response_key", _LABEL, "Key of the response set: of the adapter and how it is served."),
        _field("requested", _LABEL, "The task, group or tag that was asked for."),
        _field("sample_limit", pa.int32(), "Documents of each task that were asked for, the first ones; 0 for all."),
        _field("task", _LABEL, "The task or group that this row scores; a member of what was asked for, or itself."),
        _field("task_version", _LABEL, "Version in the task's metadata; Yaml or N/A where it has none."),
        _field("task_hash", _LABEL, "SHA-256 of documents, prompts and targets, as lm-evaluation-harness makes it."),
        _field("config_hash", _LABEL, "Digest of the task's resolved settings and its functions' source."),
        _field("harness_version", _LABEL, "Version of lm-evaluation-harness."),
        _field("chat", _LABEL, "Digest of chat template and vocabulary, in which prompts are put."),
        _field("generator", _LABEL, "Engine and version that answered."),
        _field("metric", _LABEL, "Metric; empty where there is no score."),
        _field("filter", _LABEL, "Filter through which answers went before they were scored; none for none."),
        _field("headline", pa.bool_(), "Whether this is the one score by which tables show what was asked for."),
        _field("direction", _LABEL, "Which values are better: higher, lower or unknown."),
        _field("value", pa.float64(), "The score; null where there is none.", nullable=True),
        _field("stderr", pa.float64(), "Standard error over documents, where it has a closed form.", nullable=True),
        _field("samples", pa.int32(), "Documents that were scored."),
        _field("documents", pa.int32(), "Documents that the task has."),
        _field("shots", pa.int32(), "Worked examples in each prompt."),
        _field("cut", pa.int32(), "Answers that the model's length ended before the task's own limit did."),
        _field("samples_hash", pa.string(), "Digest of all answers and their scores."),
        _field("reason", pa.string(), "Why there is no score; empty if there is one."),
    ],
)

VERIFICATIONS = _schema(
    "verifications",
    [
        _field("cell_key", pa.string(), "The submitted cell; joins cells."),
        _field("bundle", _LABEL, "SHA-256 of the manifest of the bundle that was verified."),
        _field("kind", _LABEL, "What was submitted: defense or attack."),
        _field("id", _LABEL, "Registry id of what was submitted."),
        _field("suite", _LABEL, "Suite id."),
        _field("rung", _LABEL, "checked, sampled or reproduced; reproduced rows were all run by the verifier."),
        _field("source_digest", _LABEL, "Digest of the submission's normalised source."),
        _field("verified_at", pa.timestamp("s", tz="UTC"), "When the bundle was verified."),
        _field("verifier", _LABEL, "JSON: versions of what verified, and how the submission's code was isolated."),
        _field("fresh_seed", pa.int64(), "Seed of the fresh probes and of the sample; -1 where nothing was run again."),
        _field("reason", _LABEL, "Why the rung is not higher; empty at the highest."),
        _field("detail", _LABEL, "JSON: what was found of this cell."),
    ],
)

INPUTS = _schema(
    "inputs",
    [
        _field("training_key", _LABEL, "Key of the federated training, and of all that rests on it."),
        _field("kind", _LABEL, "model, dataset, alignment (of a start model) or chat."),
        _field("name", _LABEL, "Role of a model, pool/<name> of training rows, or probes/<name>."),
        _field("source", _LABEL, "Repository on the hub, or the name of the local file or folder in its place."),
        _field("requested", _LABEL, "Revision, or SHA-256 of an alignment, that the suite names."),
        _field("resolved", _LABEL, "Commit of the hub, or SHA-256 of what was read."),
        _field("rows", pa.int64(), "Rows that were kept of a data set, or trained on by an alignment; 0 for others."),
        _field(
            "detail",
            _LABEL,
            "JSON: how it was read and what each step left; of a chat format its template.",
        ),
    ],
)

READINGS = _schema(
    "readings",
    [
        _field("suite", _LABEL, "Suite id."),
        _field("sheet", _LABEL, "Digest of the sheet that the readers labelled, 12 hexadecimal digits."),
        _field("number", pa.int32(), "Number of the answer on the sheet, from 1."),
        _field("response_key", _LABEL, "Key of the response set; joins responses by probe_id, too."),
        _field("probe_id", _LABEL, "Probe id."),
        _field("kind", _LABEL, "harmful or over_refusal."),
        _field("scenario", _LABEL, "Scenario of the cell that the answer was drawn from."),
        _field("defense", _LABEL, "Defense of that cell."),
        _field("seed", pa.int64(), "Run seed of that cell."),
        _field("answer", pa.string(), "SHA-256 of the answer, 64 hexadecimal digits; never its text."),
        _field("first_reader", _LABEL, "Name that the first reader chose."),
        _field("first_label", _LABEL, f"{', '.join(LABELS[:-1])} or {LABELS[-1]}."),
        _field("second_reader", _LABEL, "Name that the second reader chose."),
        _field("second_label", _LABEL, f"{', '.join(LABELS[:-1])} or {LABELS[-1]}."),
        _field("judges", pa.list_(pa.string()), "Ids of the judges that judged the answer, sorted."),
        _field("verdicts", pa.list_(pa.string()), "Verdict of each of them when the labels were added."),
        _field("read_on", _LABEL, "Date on which the labels were added, YYYY-MM-DD."),
    ],
)

TABLES: dict[str, pa.Schema] = {
    "cells": CELLS,
    "rounds": ROUNDS,
    "responses": RESPONSES,
    "verdicts": VERDICTS,
    "likelihoods": LIKELIHOODS,
    "probes": PROBES,
    "catalog": CATALOG,
    "task_scores": TASK_SCORES,
    "verifications": VERIFICATIONS,
    "inputs": INPUTS,
    "readings": READINGS,
}
