"""Checks that a method's metadata agree with its code, with its calls, and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attacks.base import Attack, AttackInfo
from benchmark.errors import UsageError
from benchmark.methods.kinds import ATTACK, DEFENSE, Kind
from benchmark.methods.wording import claim_in, holder_of_title
from benchmark.registry import Info, Trait
from benchmark.sandbox.proxy import Sandboxed
from benchmark.submission.contract.examination import Check, Examination, Outcome, Subject, fails, passes, warns
from benchmark.submission.contract.report import Part
from defenses.base import Defense, DefenseInfo, Knowledge, Stage, defenses

_LEFT_OVER = ("Say here", "say in one sentence")
"""Of the texts that a new file begins with."""


def defense_metadata_checks(subject: Subject[DefenseInfo, Defense]) -> list[Check]:
    """Return the checks of a defense's metadata, in order."""
    info = subject.entry.info
    return [
        _loads(info),
        Check(
            Part.METADATA,
            "stages",
            "the stages that are declared are the hooks that are filled",
            lambda: _stages(subject),
        ),
        Check(
            Part.METADATA,
            "ranking",
            "whoever is told the truth is not ranked, and a variant names a defense that there is",
            lambda: _ranking(info),
        ),
        _texts(info),
        *_own_words(info, DEFENSE, subject),
    ]


def attack_metadata_checks(subject: Subject[AttackInfo, Attack]) -> list[Check]:
    """Return the checks of an attack's metadata, in order."""
    return [
        _loads(subject.entry.info),
        Check(
            Part.METADATA,
            "hooks",
            "the attack does something: it fills pool, poison or craft",
            lambda: _hooks(subject),
        ),
        _texts(subject.entry.info),
        *_own_words(subject.entry.info, ATTACK, subject),
    ]


def generation_check(info: Info, examination: Examination, needs: Sequence[str]) -> Check:
    """Return the check that the declared traits name each model that the method has generate.

    Args:
        info: The method's metadata.
        examination: Record of the models that generated in the other checks.
        needs: Names of the checks in which the method may use its tools.
    """
    return Check(
        Part.CONTRACT,
        "declared_generation",
        "the traits declare each model that generates data for the method",
        lambda: _generation(set(info.traits), examination.observed),
        needs=tuple(needs),
    )


_GENERATION = {
    Trait.GENERATES: "generate",
    Trait.GENERATES_EXTERNAL: "generate_external",
    Trait.GENERATES_UNALIGNED: "generate_unaligned",
}
"""Trait → the tool that a method with the trait calls."""


def _generation(declared: set[Trait], observed: set[Trait]) -> Outcome:
    if undeclared := observed - declared:
        return fails(
            f"calls {_tools(undeclared)}(), but its traits do not declare this",
            f"declare traits=({_quoted(declared | observed)},) in @register(...)",
        )
    if unused := declared & _GENERATION.keys() - observed:
        return warns(
            f"declares {_quoted(unused)}, but did not call {_tools(unused)}() in the checks",
            "remove the trait, unless the method calls the tool under a condition that the checks do not meet",
        )
    return passes(_quoted(observed) or "no model generates data for the method")


def _tools(traits: set[Trait]) -> str:
    return "() and ".join(tool for trait, tool in _GENERATION.items() if trait in traits)


def _quoted(traits: set[Trait]) -> str:
    return ", ".join(f'"{trait.value}"' for trait in Trait if trait in traits)


def _loads(info: Info) -> Check:
    return Check(
        Part.METADATA,
        "loads",
        "the file can be imported and registers a method with complete metadata",
        lambda: passes(f"{info.title!r}"),
    )


def _texts(info: Info) -> Check:
    return Check(Part.METADATA, "texts", "title and description are the method's own", lambda: _own_texts(info))


def _own_words(info: Info, kind: Kind, subject: Subject[Any, Any]) -> list[Check]:
    return [
        Check(
            Part.METADATA,
            "claims",
            "the metadata leave ranks and verification to the benchmark",
            lambda: _claims(info),
        ),
        Check(
            Part.METADATA,
            "title",
            "no built-in or installed method has the title",
            lambda: _free_title(info, kind),
        ),
        Check(
            Part.METADATA,
            "same_metadata",
            "every import gives the same metadata, hooks and parameters",
            lambda: _same(subject),
            "let nothing in @register(...) and in the class depend on time, chance or process",
        ),
    ]


def _claims(info: Info) -> Outcome:
    if claim := claim_in(info):
        return fails(
            f"{claim}, which only the benchmark gives to a method",
            "say what the method does, in other words; the page shows its rank and its rung",
        )
    return passes()


def _free_title(info: Info, kind: Kind) -> Outcome:
    if holder := holder_of_title(info.title, kind.name, info.id):
        return fails(
            f"the title {info.title!r} is that of {holder}; case, blanks, punctuation and look-alike letters make no "
            f"difference",
            "give the method a title of its own, for example with its author or with what is new in it",
        )
    return passes()


def _same(subject: Subject[Any, Any]) -> Outcome:
    if not issubclass(subject.entry.target, Sandboxed):
        return passes("not compared, because the code is imported once in this process")
    with subject.fresh() as instance:
        instance.start()  # a start compares; the later checks need not start the method at all
    return passes()


def _own_texts(info: Info) -> Outcome:
    if any(words in info.description for words in _LEFT_OVER):
        return warns(
            "the description is still the one that every new file begins with",
            "say in plain words what the method does; the page shows it",
        )
    return passes("" if info.paper else "no source is named")


def _stages(subject: Subject[DefenseInfo, Defense]) -> Outcome:
    filled = {stage for stage in Stage if subject.overrides(stage.value, Defense)}
    declared = set(subject.entry.info.stages)
    if undeclared := filled - declared:
        return fails(
            f"fills {_names(undeclared)}, but declares {_names(declared)}",
            f"declare stages=({', '.join(f'Stage.{stage.name}' for stage in Stage if stage in filled)},)",
        )
    if empty := declared - filled:
        if empty == {Stage.AGGREGATE} and not filled:
            return passes("aggregates by the default, plain averaging")
        return warns(
            f"declares {_names(empty)}, but does not fill it, so that the default acts there",
            "leave the stage out, or fill the hook of that name",
        )
    return passes(_names(filled))


def _names(stages: set[Stage]) -> str:
    return ", ".join(stage.value for stage in Stage if stage in stages) or "nothing"


def _ranking(info: DefenseInfo) -> Outcome:
    if info.knowledge is Knowledge.TRUTH and info.ranked:
        return fails(
            "is told who is malicious and wants to be ranked",
            "declare ranked=False, or another knowledge: no server knows the truth",
        )
    if info.variant_of:
        try:
            defenses.holder(info.variant_of)
        except UsageError as error:
            return fails(f"is a variant of nothing: {error}", "name a registered defense, or leave it out")
    return passes()


def _hooks(subject: Subject[AttackInfo, Attack]) -> Outcome:
    filled = [hook for hook in ("pool", "poison", "craft") if subject.overrides(hook, Attack)]
    if not filled:
        return warns("fills no hook, so that its clients are honest", "fill pool, poison or craft")
    return passes(", ".join(filled))
