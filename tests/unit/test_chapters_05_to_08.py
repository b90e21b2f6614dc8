"""What chapters 5 to 8 say beside their own lines: the code they look up, and sentences that follow the numbers."""

from dataclasses import fields

import pytest
import torch

from dragkit import schedule
from dragkit.config import DragConfig
from draglab.chapters import ch05_recurrence, ch06_drag, ch07_ablations, ch08_baselines
from draglab.pages import pages
from draglab.pages.study import Study

ALPHA_BAR = schedule.scaled_linear_alpha_bar(0.00085, 0.012)


def test_every_setting_of_drag_is_described():
    described = DragConfig(eta=0.5).describe()
    assert [name for name, _, _ in described] == [f.name for f in fields(DragConfig)]
    assert {name: value for name, value, _ in described}["eta"] == 0.5
    assert all(len(meaning) > 10 for _, _, meaning in described)
    meanings = {name: meaning for name, _, meaning in described}
    assert meanings["guidance_window"] == meanings["recurrence_window"] != meanings["eta"]


def test_changed_settings_are_those_that_differ():
    assert pages.changed(DragConfig(eta=0.5, clip=None), DragConfig()) == {"eta": 0.5, "clip": None}


def test_a_line_of_the_algorithm_is_found_or_the_page_fails():
    table = ch06_drag.located([("item", schedule.tweedie, "return (z_t")])
    assert table.rows[0][:2] == ["item", "tweedie"] and table.rows[0][3].startswith("return (z_t")
    with pytest.raises(LookupError, match="tweedie has no line"):
        ch06_drag.located([("item", schedule.tweedie, "no such words")])


def test_drawn_numbers_follow_the_calculated_variance():
    a_t, a_prev = ch05_recurrence.ends(ALPHA_BAR, 400, 10)
    m, sigma = ch05_recurrence.linear(a_t, a_prev)
    drawn = ch05_recurrence.sampled(a_t, a_prev, 2, 200_000, torch.Generator().manual_seed(0))
    once = m**2 + sigma**2
    twice = m**2 * (a_t / a_prev * once + 1 - a_t / a_prev) + sigma**2
    assert drawn == pytest.approx([once, twice], rel=0.02)
    assert once < 0.95  # a long step loses variance


def row(values, **more):
    mean = sum(values) / len(values)
    summary = {"mean": mean, "ci": [mean, mean]}
    per_photo = {"st_lpips": values, "ms_ssim": values}
    return {"per_photo": per_photo, "st_lpips": summary, "ms_ssim": summary, "distance": values, **more}


def test_variants_are_judged_in_both_metrics():
    base = [0.5, 0.6, 0.7, 0.8]
    study = Study("x", {"rows": {"DRAG": row(base), "more": row([v + 0.1 + i / 1000 for i, v in enumerate(base)])}})
    (judged,) = ch07_ablations.verdicts(study).rows
    assert judged == ["more", "+0.101", "worse", "+0.101", "better"]
    assert "Worse by one and better by the other: more." in ch07_ablations.by_both(study).text


def test_a_rate_at_the_end_of_the_range_is_no_optimum():
    rates = {f"rate {r}": row([r + i / 100 for i in range(4)]) for r in (0.1, 0.2, 0.3)}
    study = Study("x", {"blocks": ["block:6"], "rows": {f"{name}, block:6": values for name, values in rates.items()}})
    assert "does not bracket an optimum" in ch07_ablations.optimum(study).text


def test_duels_name_the_closer_method():
    close, far = [0.1, 0.2, 0.31], [0.3, 0.4, 0.5]
    rows = {"DRAG, block:6": row(close, method="DRAG"), "LM, block:6": row(far, method="LM")}
    study = Study("x", {"blocks": ["block:6"], "rows": rows})
    assert ch08_baselines.duels({"ViT": study}).rows[0][-1] == "DRAG closer"
    assert "in 1 of 1 comparisons" in ch08_baselines.victories({"ViT": study}).text


def test_a_missing_study_has_no_verdict():
    missing = {"ViT": Study("nothing", None)}
    assert "no verdict" in ch08_baselines.duels(missing).text
    assert "Not available" in ch08_baselines.origins(missing).text
