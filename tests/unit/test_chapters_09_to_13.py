"""What chapters 9, 11, 12 and 13 compute for their tables, on made-up numbers, and what they say where nothing is recorded."""

from __future__ import annotations

import pytest
import torch

from dragkit import zoo
from dragkit.adaptive.reorder import fit_positions
from dragkit.distance import cosine_distance
from dragkit.measures.intervals import Interval
from draglab.chapters import ch09_dragpp, ch11_noise, ch12_tokens, ch13_nopeek
from draglab.chapters.tradeoff import decided, keeps_half
from draglab.pages.study import Line, Study

MISSING = Study("never-run", None)


@pytest.mark.parametrize(("low", "high", "word"), [(0.1, 0.2, "yes"), (-0.2, -0.1, "no"), (-0.1, 0.1, "undecided")])
def test_an_interval_decides_only_if_it_leaves_zero_out(low, high, word):
    assert decided(Interval((low + high) / 2, low, high), "yes", "no") == word


@pytest.mark.parametrize(("value", "word"), [(0.7, "yes"), (0.3, "no")])
def test_half_lies_between_the_prior_and_the_undefended_attack(value, word):
    rows = {"prior only": 0.2, "undefended": 0.8, "noise": value}
    study = Study("made-up", {"rows": {name: {"per_photo": {"ms_ssim": [v] * 8}} for name, v in rows.items()}})
    assert keeps_half(study, "noise") == word


def test_nothing_recorded_is_said_and_not_drawn():
    assert ch11_noise.prices_in_words(MISSING) == []
    assert ch12_tokens.shuffled_in_words(MISSING) == []
    assert ch12_tokens.dropped_in_words(MISSING) == []
    assert ch09_dragpp.good_or_late(MISSING) == []
    assert "never-run" in str(MISSING.show(ch09_dragpp.over_depth, "psnr"))
    without = Study("made-up", {"blocks": ["block:0"], "rows": {"DRAG, block:0": {}}})
    assert isinstance(ch09_dragpp.over_depth(without, "psnr"), Line)


def test_margin_is_the_nearest_wrong_guess_minus_the_right_one():
    found = ch11_noise.margins({0.0: [torch.tensor([0.1, 0.5, 0.3]), torch.tensor([0.1, 0.5, 0.3])]}, [0, 1])
    assert found[0.0] == pytest.approx([0.2, -0.4])


def test_nearest_finds_the_right_guess_at_distance_zero():
    guesses = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    (own, wrong), (_, both) = ch12_tokens.nearest(guesses, [2, 0], cosine_distance, guesses[[2, 3]])
    assert own == pytest.approx(0, abs=1e-6)
    assert wrong > 0.1
    assert both == pytest.approx(0, abs=1e-6), "the second message is of a guess that is not the right one"


def test_places_mirror_within_their_row():
    own, mirror = ch12_tokens.places(3)
    assert own.tolist() == list(range(9))
    assert mirror.tolist() == [2, 1, 0, 5, 4, 3, 8, 7, 6]


def test_landed_tells_mirrored_places_from_wrong_ones():
    put = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [0, 1, 3, 2]])
    table = ch12_tokens.landed("tokens", {"mixed": put}, 2)
    assert table.rows == [["mixed", "37.5%", "37.5%", "25.0%"], ["chance", "25.0%", "25.0%", "50.0%"]]


def test_pieces_are_parts_of_the_photos():
    photo = torch.arange(3 * 96 * 96).reshape(1, 3, 96, 96)
    pieces = ch13_nopeek.pieces_of(photo, 3, seed=0)
    assert pieces.shape == (3, 3, 64, 64)
    corners = {int(piece[0, 0, 0]) for piece in pieces}
    assert len(corners) == 3
    assert corners <= {0, 32, 32 * 96, 32 * 96 + 32}


def test_position_classifiers_are_taken_from_the_cache_and_never_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    client, other = (zoo.load_client(at=at) for at in ("block:1", "block:2"))
    assert ch12_tokens.cached_positions(client) is None
    assert "--at block:1" in " ".join(ch12_tokens.positions_in_words(None, client))
    photos = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("dragkit.data.pick", lambda subset, n, seed: (photos[:n], None, None))
    for steps in (1, 2):
        fit_positions(client, n_train=32, n_held_out=4, steps=steps)
    monkeypatch.delattr("dragkit.data.pick")
    longest = ch12_tokens.cached_positions(client)
    assert longest is not None
    assert longest.card["steps"] == 2
    assert ch12_tokens.cached_positions(other) is None, "it was trained for another cut"
    words = ch12_tokens.positions_in_words(longest, client)
    assert [line.partition(":")[0] for line in words] == list(longest.card["measured"])
    assert all("4 held-out training photos" in line for line in words)
    with torch.no_grad():
        table = ch12_tokens.classified("photos", longest, client(photos[:2]), side=8)
    assert table is not None
    assert [row[0] for row in table.rows] == ["position classifier", "chance"]
