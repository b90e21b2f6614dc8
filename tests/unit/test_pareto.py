"""Points from recorded studies: what is one defence, who is its strongest attacker, and what beats what."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dragkit import zoo
from dragkit.defenses import DEFENCES
from dragkit.measures.intervals import Interval
from draglab import frontier
from draglab.catalogue import SWEEPS

DISCO, NOPEEK = f"disco-{zoo.CLIENT}", f"nopeek-{zoo.CLIENT}"


def row(accuracy=0.8, st_lpips=0.4, spec="", reply="", client=zoo.CLIENT, queries=1, method="drag", **more):
    values = [st_lpips - 0.1, st_lpips, st_lpips + 0.1]
    return {
        "per_photo": {"ms_ssim": [1 - v for v in values], "st_lpips": values},
        "ms_ssim": {"mean": 1 - st_lpips, "ci": [0.8 - st_lpips, 1.2 - st_lpips]},
        "st_lpips": {"mean": st_lpips, "ci": [st_lpips - 0.2, st_lpips + 0.2]},
        "retrieval_top1": [0.5, 0.3, 0.7],
        "accuracy": [accuracy, accuracy - 0.03, accuracy + 0.04],
        "client": client,
        "server": client,
        "defence": spec,
        "reply": reply,
        "method": method,
        "queries": queries,
    } | more


def gathered(tmp_path, **studies):
    for name, rows in studies.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    return frontier.gather(tmp_path)


@pytest.fixture
def toy(tmp_path):
    return gathered(
        tmp_path,
        defence_noise={
            "undefended": row(0.9, 0.2),
            "gaussian:1.0": row(0.8, 0.6, "gaussian:1.0"),
            "gaussian:1.0, likelihood": row(0.8, 0.5, "gaussian:1.0", "likelihood"),
            "gaussian:1.0, 16": row(0.8, 0.3, "gaussian:1.0", "likelihood", queries=16),
            "prior only": {m: {"mean": 0.7, "ci": [0.6, 0.8]} for m in frontier.LEAKS},
        },
        defence_tokens={
            "undefended": row(0.9, 0.2),
            "shuffle": row(0.9, 0.7, "shuffle"),
            "shuffle, gram": row(0.9, 0.8, "shuffle", "gram"),
            "drop:0.5+shuffle": row(0.7, 0.65, "drop:0.5+shuffle"),
        },
    )


def test_every_study_of_a_defence_is_gathered():
    assert set(frontier.STUDIES) == {name for name in SWEEPS if name.startswith("defence_")}


def test_every_defence_has_a_family():
    assert {made.family for made in DEFENCES.values()} == {
        "randomness",
        "tokens",
        "less sent",
        "secret basis",
        "trained",
    }


def test_gather_takes_attacks_once_and_no_references(toy, tmp_path):
    assert [p.label for p in toy] == [
        "undefended",
        "gaussian:1.0",
        "gaussian:1.0, likelihood",
        "gaussian:1.0, 16",
        "shuffle",
        "shuffle, gram",
        "drop:0.5+shuffle",
    ]
    one = toy[2]
    assert (one.study, one.defence, one.family, one.reply, one.queries) == (
        "defence_noise",
        "gaussian:1.0",
        "randomness",
        "likelihood",
        1,
    )
    assert one.accuracy == pytest.approx((0.8, 0.77, 0.84))
    assert one.leaks["st_lpips"] == pytest.approx((0.5, 0.3, 0.7))
    assert one.leaks["retrieval_top1"] == (0.5, 0.3, 0.7)
    assert [p.adaptive for p in toy] == [False, False, True, True, False, True, False]
    assert frontier.undefended(toy).accuracy.mean == 0.9
    assert frontier.references(tmp_path) == {"prior only": {m: (0.7, 0.6, 0.8) for m in frontier.LEAKS}}


def test_nothing_recorded_gives_nothing(tmp_path):
    points = frontier.gather(tmp_path)
    assert points == []
    assert frontier.references(tmp_path) == {}
    assert frontier.undefended(points) is None
    assert frontier.unaware(points) == frontier.worst_attack(points) == {}
    assert frontier.frontier(points) == []


def test_trained_clients_are_defences_of_their_own(tmp_path):
    points = gathered(
        tmp_path,
        defence_nopeek={
            "vit-imagenette64": row(client=NOPEEK),
            "vit-imagenette64, inverse network": row(client=NOPEEK, method="inverse"),
            "lambda0": row(client="nopeek-lambda0"),
        },
        defence_disco={
            "no mask": row(client=DISCO),
            "disco": row(spec="disco", client=DISCO),
            "disco-hard, channelwise": row(spec="disco-hard", reply="channelwise", client=DISCO),
            "no-adversary": row(spec="disco", client="disco-no-adversary"),
        },
    )
    names = [p.defence for p in points]
    assert names == ["nopeek", "nopeek", "nopeek-lambda0", "disco, no mask", "disco", "disco-hard"]  # no ablations
    assert {p.family for p in points} == {p.utility for p in points} == {"trained"}
    assert [p.adaptive for p in points] == [False, True, False, False, False, True]
    assert [p.control for p in points] == [False, False, True, True, False, False]
    assert len({p.key for p in points}) == 5


def test_a_trained_server_is_another_defence(tmp_path):
    rows = {"a": row(spec="gaussian:1.0"), "b": row(spec="gaussian:1.0", server="server/x")}
    plain, helped = gathered(tmp_path, defence_noise=rows)
    assert (plain.defence, helped.defence) == ("gaussian:1.0", "gaussian:1.0, trained server")
    assert (plain.utility, helped.utility) == ("approximate", "trained")
    assert helped.family == "randomness"


def test_what_the_registry_says_of_a_spec(toy):
    told = {p.defence: (p.server_knows, p.utility) for p in toy}
    assert told["shuffle"] == ("nothing", "exact")
    assert told["drop:0.5+shuffle"] == ("nothing", "approximate"), "a chain is as bad as its worst part"
    assert told["undefended"] == ("nothing", "exact")
    turned = replace(toy[0], spec="rotate+lowrank:8")
    assert turned.server_knows == " and ".join(DEFENCES[name].server_knows for name in ("rotate", "lowrank"))


def test_the_strongest_attacker_may_be_the_unaware_one_and_queries_count(toy):
    assert {d: p.label for d, p in frontier.worst_attack(toy).items()} == {
        "gaussian:1.0": "gaussian:1.0, likelihood",
        "shuffle": "shuffle",
        "drop:0.5+shuffle": "drop:0.5+shuffle",
    }
    assert frontier.worst_attack(toy, queries=None)["gaussian:1.0"].label == "gaussian:1.0, 16"
    assert {d: p.label for d, p in frontier.unaware(toy).items()} == {
        d: d for d in ("gaussian:1.0", "shuffle", "drop:0.5+shuffle")
    }


def made(accuracy, st_lpips, toy):
    leaks = {"st_lpips": Interval(st_lpips, st_lpips, st_lpips), "ms_ssim": Interval(st_lpips, st_lpips, st_lpips)}
    return replace(toy[0], accuracy=Interval(accuracy, accuracy, accuracy), leaks=leaks)


def test_frontier_keeps_what_nothing_beats(toy):
    values = [(0.9, 0.2), (0.8, 0.5), (0.8, 0.4), (0.7, 0.5), (0.6, 0.7), (0.8, 0.5)]
    points = [made(*v, toy) for v in values]
    kept = [(p.accuracy.mean, p.leaks["st_lpips"].mean) for p in frontier.frontier(points)]
    assert kept == [(0.6, 0.7), (0.8, 0.5), (0.8, 0.5), (0.9, 0.2)], "equals stay, in order of accuracy"
    by_similarity = [(p.accuracy.mean, p.leaks["ms_ssim"].mean) for p in frontier.frontier(points, "ms_ssim")]
    assert by_similarity == [(0.9, 0.2)], "the least MS-SSIM and the best accuracy: it beats all"


def test_budget_and_loss(toy):
    plain, worst = frontier.undefended(toy), frontier.worst_attack(toy).values()
    assert frontier.lost(toy[1], plain).mean == pytest.approx(0.1)
    assert frontier.lost(toy[1], plain) == pytest.approx((0.1, 0.1 - 0.05, 0.1 + 0.05))
    assert [p.defence for p in frontier.affordable(worst, plain, 0.15)] == ["shuffle", "gaussian:1.0"]
    assert [p.defence for p in frontier.affordable(worst, plain, 0.05)] == ["shuffle"]


def test_flattery_is_positive_when_the_strongest_gets_more(toy):
    naive, worst = frontier.unaware(toy), frontier.worst_attack(toy)
    for metric in ("st_lpips", "ms_ssim"):
        assert frontier.flattery(naive["gaussian:1.0"], worst["gaussian:1.0"], metric).mean == pytest.approx(0.1)
    assert frontier.flattery(naive["shuffle"], worst["shuffle"]).mean == 0
    with pytest.raises(ValueError, match="attacks on one defence"):
        frontier.flattery(naive["shuffle"], worst["gaussian:1.0"])
