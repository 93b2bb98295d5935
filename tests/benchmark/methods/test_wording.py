"""Claims in metadata, and titles that look alike."""

from __future__ import annotations

import pytest

from attacks.base import attacks
from benchmark.methods.wording import claim_in, holder_of_title
from defenses.base import DefenseInfo, Knowledge, Stage, defenses


def info(title: str = "Some rule", description: str = "A rule that is described in words.", **more: str) -> DefenseInfo:
    fields = {"id": "tried", "paper": "", **more}
    stages = (Stage.AGGREGATE,)
    return DefenseInfo(title=title, description=description, stages=stages, knowledge=Knowledge.NONE, **fields)


@pytest.mark.parametrize(
    "title",
    [
        "Verified Krum",
        "V e r i f i e d Krum",
        "Ver1fied Krum",
        "veri-fied mean",
        "verlfied mean",
        "Verifyed mean",
        "\u1d20\u1d07\u0280\u026a\ua730\u026a\u1d07\u1d05 mean",
        "Verification passed mean",
        "Reproduces: yes",
        "Validated mean",
        "Confirrned mean",
        "Project-approved",
        "Place 1 of all",
        "Tops the table",
        "Beats all others",
        "Safety 100.0 mean",
        "100 % safe",
        "\uff36\uff25\uff32\uff29\uff26\uff29\uff25\uff24",
        "V\u00e9rified",
        "Krum (reproduced)",
        "Rank 1",
        "R4nk one defense",
        "Ranked first",
        "Krum, No. 1",
        "1st place",
        "Best defense",
        "Krum, sampled",
        "Gepr\u00fcfter Mittelwert",
        "GEPRUEFT: mean",
        "Moyenne approuv\u00e9e",
        "Testsieger",
        "Media ganadora",
        "\u041f\u0440\u043e\u0432\u0435\u0440\u0435\u043d\u043e",
        "\u5df2\u9a8c\u8bc1\u7684\u5e73\u5747",
        "Gold medal mean",
        "Golden-seal Krum",
        "Medalist",
        "Award-winning mean",
        "Trusted mean",
        "Tru5ted mean",
        "Trustworthy Krum",
        "Proven mean",
        "Tested Krum",
        "Recommended mean",
    ],
)
def test_a_title_that_claims_a_rank_or_a_rung_is_named(title: str) -> None:
    assert claim_in(info(title)).startswith(f"title {title!r} has the word ")


@pytest.mark.parametrize(
    "description",
    [
        "This method is verified by the benchmark.",
        "Ranks 1st among all the rules here.",
        "The best of all defenses in this benchmark.",
        "Leads the leaderboard since it exists.",
        "Passes verification.",
        "Confirmed by the benchmark team on all ten seeds.",
        "It holds the highest safety of the table.",
    ],
)
def test_a_description_that_claims_a_rank_or_a_rung_is_named(description: str) -> None:
    assert claim_in(info(description=description)).startswith("description ")


@pytest.mark.parametrize(
    "description",
    [
        "Keeps a rank-1 update of each matrix and drops the rest.",
        "Clients are sampled, and their distances are ranked by size.",
        "Low-rank projection of LoRA factors of rank 8.",
        "Picks the update with the best score among all clients.",
        "Plays the best response to attacks; checks each client first.",
        "Validates each update on a validation set and places one client in a group.",
        "A second pass verifies signatures and approves updates that are confirmed by a vote.",
    ],
)
def test_the_same_words_in_mathematics_are_no_claim(description: str) -> None:
    assert claim_in(info("Low-rank projection", description)) == ""


@pytest.mark.parametrize(
    "title",
    [
        "FLTrust",
        "Trust scores of a root set",
        "Mean near trusted root data",
        "Trusted-server fine-tuning",
        "Hypothesis-tested clipping",
        "Golden-section search",
        "Reward-weighted mean",
        "Certified radius by clipping",
        "Geometric median",
        "Medial axis of updates",
        "Attested enclaves",
        "Provably robust mean",
        "Gewichteter Mittelwert",
        "Moyenne tronqu\u00e9e",
    ],
)
def test_honest_titles_pass(title: str) -> None:
    assert claim_in(info(title)) == ""


def test_ids_and_sources_claim_nothing_either() -> None:
    assert claim_in(info(id="verified_krum")).startswith("id 'verified_krum'")
    assert claim_in(info(paper="Nobody 2020, reproduced here")).startswith("paper ")


def test_built_in_methods_claim_nothing_and_have_titles_of_their_own() -> None:
    for registry in (defenses, attacks):
        for entry in registry.entries():
            assert claim_in(entry.info) == ""
            assert holder_of_title(entry.info.title, registry.kind, entry.info.id) == ""


@pytest.mark.parametrize(
    "title",
    ["Krum", "KRUM", "K r u m", "Krum.", "\u041arum", "Kr\u00fcm", "Krurn", "Kru\ua7ff", "Krum (krum)", "Krum (tried)"],
)
def test_a_title_that_looks_like_a_built_in_one_is_taken(title: str) -> None:
    assert holder_of_title(title, "defense", "tried") == "defense 'krum' ('Krum')"
    assert holder_of_title("Krum of clusters", "defense", "tried") == ""


@pytest.mark.parametrize("title", ["None", "gate", "Ref"])
def test_a_word_in_the_place_of_a_rank_is_no_title(title: str) -> None:
    assert holder_of_title(title, "defense", "tried") == f"the board ({title.lower()!r})"
