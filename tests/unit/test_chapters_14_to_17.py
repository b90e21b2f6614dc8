"""Words and tables of the chapters on defences: verdicts by the interval, and a sentence where nothing was recorded."""

from __future__ import annotations

import pytest

from dragkit.measures.intervals import Interval
from draglab.chapters import ch14_disco, ch15_randomness, ch16_bounds, ch17_choosing
from draglab.pages.study import Line, Study, leaks_in_words, sentences


@pytest.mark.parametrize(
    ("metric", "ends", "told"),
    [
        ("ms_ssim", (0.1, 0.3), "leaks more"),
        ("ms_ssim", (-0.3, -0.1), "leaks less"),
        ("st_lpips", (0.1, 0.3), "leaks less"),
        ("st_lpips", (-0.3, -0.1), "leaks more"),
        ("ms_ssim", (-0.1, 0.1), "not told apart"),
        ("ms_ssim", (0.0, 0.0), "the same pictures"),
    ],
)
def test_a_better_attack_leaks_more(metric, ends, told):
    assert leaks_in_words(Interval(sum(ends) / 2, *ends), metric) == told


def test_sentences_are_lines_of_their_own():
    assert repr(sentences(["One.", "Two."])) == "One.\n\nTwo."


@pytest.mark.parametrize(
    "view",
    [
        ch14_disco.findings,
        ch14_disco.masks_table,
        ch15_randomness.comparisons_table,
        ch15_randomness.losses_figure,
        ch16_bounds.bounds_in_words,
        ch16_bounds.bits_figure,
    ],
)
def test_what_was_not_recorded_says_so(view):
    shown = Study("defence_none", None).show(view)
    assert isinstance(shown, Line)
    assert shown.text.startswith("Not available: book/results/defence_none.json")


@pytest.mark.parametrize(
    "view",
    [
        ch17_choosing.strongest_figure,
        ch17_choosing.flattery_in_words,
        ch17_choosing.leaks_table,
        ch17_choosing.frontier_in_words,
    ],
)
def test_choosing_without_any_study_says_so(view):
    assert view(None).text.startswith("No study has been recorded here")


def test_summaries_without_their_studies_give_no_verdict():
    nothing = Study("none", None)
    assert "no verdict" in ch15_randomness.summary(nothing).text
    said = ch16_bounds.summary([0.1, 9.0], {100: [0.9, 0.1], 1000: [1.0, 0.2]}, nothing, nothing).text
    assert "largest gallery gives 1.00 of the truth at 0.1 nats and 0.20 at 9.0 nats" in said
    assert "no verdict about DRAG" in said


def test_nothing_is_chosen_where_nothing_is_known():
    assert ch17_choosing.choices(None) == {}
    assert ch17_choosing.audit_card(None, None, (65, 128)).text.endswith("the card stays empty.")
