"""Figures, the stepper and the small page helpers: what they draw, what they refuse, and that pixels stay pixels."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from dragkit import schedule
from dragkit.attacks.threat import ThreatModel
from draglab.pages import pages, plots, widgets

ONE = (0.5, 0.4, 0.6)  # a value and its interval


def photos(n: int, side: int = 64) -> torch.Tensor:
    return torch.rand((n, 3, side, side), generator=torch.Generator().manual_seed(n))


def rendered(figure) -> np.ndarray:
    """RGB `(height, width, 3)` as a notebook would save it."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return np.asarray(Image.open(out).convert("RGB"))


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


# -- photos


@pytest.mark.parametrize("side", [16, 64, 112])
def test_every_photo_is_drawn_pixel_by_pixel(side):
    """The drawn panel, reduced by its whole zoom, is the photo: nothing was smoothed, shifted or recoloured."""
    images = photos(3, side)
    figure = plots.image_rows({"photo": images})
    drawn, sheet = rendered(figure), images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    height, width = drawn.shape[:2]
    for axes, want in zip(figure.axes, sheet, strict=True):
        box = axes.get_position()
        zoom = box.width * width / side
        assert zoom == pytest.approx(round(zoom))
        left, top, zoom = round(box.x0 * width), round((1 - box.y1) * height), round(zoom)
        panel = drawn[top : top + side * zoom, left : left + side * zoom]
        np.testing.assert_array_equal(panel[::zoom, ::zoom], want)
        np.testing.assert_array_equal(panel[zoom - 1 :: zoom, zoom - 1 :: zoom], want)


@pytest.mark.parametrize("columns", [1, 2, 5, 9])
def test_photos_do_not_overlap_and_stay_on_the_page(columns):
    rows = {"a": photos(columns), "b c": photos(columns)}
    figure = plots.image_rows(rows, columns=["x"] * columns, captions={"a": ["0.5"] * columns})
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 2 * columns
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= 1 + 1e-9 and b.y1 <= 1 for b in boxes)
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0


def test_rows_carry_their_labels_headings_and_captions():
    figure = plots.image_rows({"decoder ceiling": photos(2)}, ["cat", "dog"], {"decoder ceiling": ["0.1", "0.2"]})
    assert sorted(texts(figure)) == sorted(["decoder\nceiling", "cat", "dog", "0.1", "0.2"])
    assert figure.get_facecolor() == (1, 1, 1, 1)


def test_a_row_may_be_shorter_than_the_others():
    assert len(plots.image_rows({"a": photos(3), "b": photos(1)}).axes) == 4


def test_values_outside_the_range_are_clamped():
    figure = plots.image_grid(torch.full((1, 3, 8, 8), 1.5))
    assert (figure.axes[0].images[0].get_array() == 255).all()


def test_grid_labels_follow_their_images():
    figure = plots.image_grid(photos(5), columns=2, labels=list("abcde"))
    assert texts(figure) == list("abcde")
    assert len(figure.axes) == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.image_rows({}), "rows is empty"),
        (lambda: plots.image_rows({"a": photos(1), "b": photos(1, 32)}), "several sizes"),
        (lambda: plots.image_rows({"a": photos(2)}, ["x"]), "1 headings"),
        (lambda: plots.image_rows({"a": photos(2)}, captions={"b": ["x"]}), "captions"),
        (lambda: plots.image_rows({"a": photos(2)}, captions={"a": ["x"]}), "captions"),
        (lambda: plots.image_rows({"a": photos(2)[0]}), r"rows\['a'\]"),
        (lambda: plots.image_grid(photos(2), columns=0), "columns is 0"),
        (lambda: plots.image_grid(photos(2), labels=["x"]), "1 texts"),
        (lambda: plots.image_grid(torch.full((1, 3, 8, 8), torch.nan)), "NaN"),
        (lambda: plots.curves({}, xlabel="", ylabel=""), "lines is empty"),
        (lambda: plots.curves({str(i): [1.0] for i in range(8)}, xlabel="", ylabel=""), "8 curves"),
        (lambda: plots.curves({"a": [1.0, 2.0]}, [0.0], xlabel="", ylabel=""), "2 values"),
        (lambda: plots.curves({"a": [1.0]}, xlabel="", ylabel="", bands={"b": ([0.0], [1.0])}), "bands"),
        (lambda: plots.intervals({}, ""), "values is empty"),
        (lambda: plots.plane({}, radius=1, xlabel="", ylabel=""), "points must hold"),
        (lambda: plots.plane({"a": torch.zeros(3)}, radius=1, xlabel="", ylabel=""), "points must hold"),
        (lambda: plots.plane({"a": torch.zeros(1, 2)}, radius=0, xlabel="", ylabel=""), "radius is 0"),
        (lambda: plots.plane({"a": torch.zeros(1, 2)}, radius=1, joined=["b"], xlabel="", ylabel=""), "joined"),
        (
            lambda: plots.plane({"a": torch.zeros(1, 2)}, radius=1, names={"a": ["x", "y"]}, xlabel="", ylabel=""),
            r"names\['a'\] has 2 texts",
        ),
        (lambda: plots.tradeoff({"a": []}, "", ""), "points is empty"),
        (lambda: plots.tradeoff({"a": [(ONE, ONE, "")]}, "", "", joined=["b"]), "joined"),
        (lambda: plots.tradeoff({"a": [(ONE, (0.1, 0.2, 0.3), "p")]}, "", ""), r"points\['a'\] has 'p'"),
        (lambda: plots.heat_maps({}, ""), "maps must hold"),
        (lambda: plots.heat_maps({"a": torch.zeros(3)}, ""), "maps must hold"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- numbers


def test_curves_draw_the_numbers_given():
    figure = plots.curves(
        {"a": torch.tensor([1.0, 2.0]), "b": [3.0, 4.0]},
        [10, 20],
        xlabel="turn",
        ylabel="distance",
        bands={"a": ([0.5, 1.5], [1.5, 2.5])},
        levels={"floor": 0.2},
        log=True,
    )
    axes = figure.axes[0]
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["a"] == [[10, 1], [20, 2]]
    assert drawn["b"] == [[10, 3], [20, 4]]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("turn", "distance", "log")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b"]
    assert [text.get_text() for text in axes.texts] == ["floor"]
    assert len(axes.collections) == 1
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines[:2]}
    assert len({c for c, _ in looks}) == len({d for _, d in looks}) == 2, "colour alone does not tell lines apart"


def test_counted_things_have_whole_ticks():
    ticks = plots.curves({"a": [1.0, 2.0, 3.0, 4.0]}, range(1, 5), xlabel="turn", ylabel="y").axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks)
    ticks = plots.curves({"a": [1.0, 2.0]}, [0.0, 0.5], xlabel="rate", ylabel="y").axes[0].get_xticks()
    assert any(tick != round(tick) for tick in ticks)


def test_a_logarithmic_axis_has_its_ticks_where_the_points_are():
    budgets = [80, 250, 1000, 4000]
    axes = plots.curves({"a": [4.0, 3.0, 2.0, 1.0]}, budgets, xlabel="turns", ylabel="y", log_x=True).axes[0]
    assert axes.get_xscale() == "log" and list(axes.get_xticks()) == budgets
    assert [label.get_text() for label in axes.get_xticklabels()] == ["80", "250", "1,000", "4,000"]


def test_intervals_show_value_and_both_ends():
    axes = plots.intervals({"DRAG": (0.5, 0.4, 0.7), "grey": 0.2}, "MS-SSIM").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["DRAG", "grey"]
    assert [line.get_xdata().tolist() for line in axes.lines] == [[0.4, 0.7], [0.5], [0.2, 0.2], [0.2]]


def test_plane_draws_points_and_a_round_circle():
    points = {"on": torch.tensor([[2.0, 0.0], [0.0, 2.0]]), "off": torch.tensor([[3.0, 1.0]])}
    figure = plots.plane(points, radius=2.0, band=0.1, names={"off": ["far"]}, joined=["on"], xlabel="x", ylabel="y")
    axes = figure.axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["on"].get_xydata().tolist() == [[2, 0], [0, 2]]
    assert drawn["off"].get_xydata().tolist() == [[3, 1]]
    assert drawn["on"].get_linestyle() != drawn["off"].get_linestyle() == "None"
    np.testing.assert_allclose(np.hypot(*axes.lines[0].get_xydata().T), 2.0)
    np.testing.assert_allclose(sorted({round(float(np.hypot(*p)), 6) for p in axes.patches[0].get_xy()}), [1.9, 2.1])
    assert [text.get_text() for text in axes.texts] == ["far"]
    rendered(figure)  # limits are final once it is drawn
    assert axes.get_aspect() == 1, "a circle must look round"
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < 0
    assert bottom < 0
    assert right > 3
    assert top > 2


def test_tradeoff_draws_points_bars_texts_and_levels():
    points = {
        "noise": [((0.9, 0.8, 0.95), (0.3, 0.2, 0.4), "2.0"), ((0.5, 0.4, 0.6), (0.1, 0.0, 0.2), "4.0")],
        "shuffle": [((0.7, 0.6, 0.8), (0.6, 0.5, 0.7), "")],
    }
    axes = plots.tradeoff(points, "accuracy", "MS-SSIM", {"prior only": 0.15}, joined=["noise"]).axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    assert drawn["noise"].get_xydata().tolist() == [[0.5, 0.1], [0.9, 0.3]], "in the order of x"
    assert drawn["shuffle"].get_xydata().tolist() == [[0.7, 0.6]]
    assert drawn["noise"].get_linestyle() != drawn["shuffle"].get_linestyle() == "None"
    looks = {(drawn[label].get_color(), drawn[label].get_marker()) for label in points}
    assert len({c for c, _ in looks}) == len({m for _, m in looks}) == 2, "colour alone does not tell series apart"
    bars = [line.get_xydata().tolist() for line in axes.lines if line.get_label().startswith("_")]
    assert [[0.8, 0.3], [0.95, 0.3]] in bars
    assert [[0.9, 0.2], [0.9, 0.4]] in bars
    assert sorted(text.get_text() for text in axes.texts) == ["2.0", "4.0", "prior only"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("accuracy", "MS-SSIM")
    axes = plots.tradeoff(points, "accuracy", "MS-SSIM", limits=((0, 1), (0.5, 1.5))).axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0.5, 1.5))


def test_tradeoff_keeps_texts_apart_and_on_the_axes():
    crowd = [((x, x, x), (0.5, 0.5, 0.5), f"defence {i}") for i, x in enumerate((0.0, 0.5, 0.51, 0.52, 1.0))]
    figure = plots.tradeoff({"a": crowd}, "x", "y")
    rendered(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    frame = figure.axes[0].get_window_extent()
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


def test_heat_maps_share_one_scale_and_are_symmetric_when_signed():
    maps = {"a": torch.tensor([[0.0, 1.0]]), "b": torch.tensor([[0.5, 3.0]])}
    assert {axes.images[0].get_clim() for axes in plots.heat_maps(maps, "d").axes if axes.images} == {(0.0, 3.0)}
    signed = plots.heat_maps({**maps, "c": torch.tensor([[-4.0, 1.0]])}, "d")
    assert {axes.images[0].get_clim() for axes in signed.axes if axes.images} == {(-4.0, 4.0)}


def test_figures_are_not_kept_by_pyplot_and_the_style_does_not_leak():
    before = (plt.get_fignums(), plt.rcParams["font.size"], plt.rcParams["axes.grid"])
    figures = [
        plots.image_grid(photos(2)),
        plots.curves({"a": [1.0]}, xlabel="x", ylabel="y"),
        plots.intervals({"a": 1.0}, "x"),
        plots.heat_maps({"a": torch.ones(2, 2)}, "x"),
        plots.plane({"a": torch.ones(1, 2)}, radius=1.0, xlabel="x", ylabel="y"),
        plots.tradeoff({"a": [(ONE, ONE, "p")]}, "x", "y"),
    ]
    assert (plt.get_fignums(), plt.rcParams["font.size"], plt.rcParams["axes.grid"]) == before
    for figure in figures:
        assert (rendered(figure)[0, 0] == 255).all(), "white paper"


# -- the stepper


def test_stepper_is_one_labelled_native_slider_without_external_requests():
    frames = photos(3)
    shown = widgets.stepper(frames, ["turn 1", "turn 2", 'turn "3" <end>'], title="DRAG at work")._repr_html_()
    slider = re.search(r"<input[^>]*>", shown).group(0)
    assert 'type="range"' in slider
    assert 'max="2"' in slider
    assert 'aria-label="DRAG at work"' in slider
    assert "<script" not in shown
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"]+", "", shown))
    assert "&quot;3&quot; &lt;end&gt;" in shown
    alts = re.findall(r'<img[^>]* alt="([^"]+)"', shown)
    assert len(alts) == 3
    assert alts[0] == "DRAG at work, turn 1"
    assert [("display:block" in tag) for tag in re.findall(r"<img[^>]*>", shown)] == [False, False, True]


def test_stepper_holds_the_frames_as_they_are():
    frames = photos(2, 16)
    shown = widgets.stepper(frames, ["a", "b"], title="x")._repr_html_()
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(d)))) for d in re.findall(r"base64,([^\"]+)", shown)]
    np.testing.assert_array_equal(np.stack(pixels), plots.to_pixels(frames, "frames"))


def test_stepper_as_small_multiples():
    assert texts(widgets.stepper(photos(2), ["a", "b"], title="x").figure()) == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "title", "message"), [(["a"], "x", "labels has 1"), (["a", "b"], " ", "title is empty")]
)
def test_stepper_refuses_frames_without_words(labels, title, message):
    with pytest.raises(ValueError, match=message):
        widgets.stepper(photos(2), labels, title=title)


# -- listings, tables, recorded data


def test_listing_is_the_code_that_runs():
    code = pages.source(schedule.tweedie, ThreatModel.missing).code
    assert code.startswith("# dragkit/schedule.py, line ")
    scope = {"Tensor": torch.Tensor, "sqrt": np.sqrt, "ThreatModel": ThreatModel, "fields": None}
    exec(code, scope)
    z, eps = torch.tensor([2.0]), torch.tensor([1.0])
    assert torch.equal(scope["tweedie"](z, eps, 0.25), schedule.tweedie(z, eps, 0.25))
    assert "\ndef missing(self" in code
    assert "\n    return [" in code
    assert pages.source(schedule.tweedie)._repr_markdown_().startswith("```python\n# dragkit/schedule.py")
    with pytest.raises(ValueError, match="objects is empty"):
        pages.source()


def test_table_escapes_and_formats():
    made = pages.table(["a", "b"], [["<x>", 0.12345], ["y", 3]])
    shown = made._repr_html_()
    assert "&lt;x&gt;" in shown
    assert ">0.123<" in shown
    assert shown.count('scope="row"') == 2
    assert repr(made).splitlines() == ["a    b", "<x>  0.123", "y    3"]
    with pytest.raises(ValueError, match="a row has 1 cells"):
        pages.table(["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="header is empty"):
        pages.table([], [])


def test_recorded_data_are_read_or_visibly_absent(tmp_path, monkeypatch):
    assert pages.recorded("shuffle", tmp_path) is None
    assert "Not available: book/results/shuffle.json" in pages.missing("shuffle")
    told = {"command": "dragkit measure shuffle", "date": "2026-01-01", "commit": "abc", "device": "cpu"}
    row = {"per_photo": {"psnr": [1.0, 3.0]}, "psnr": {"mean": 2.0, "ci": [1.0, 3.0]}}
    (tmp_path / "shuffle.json").write_text(json.dumps({"provenance": told, "rows": {"DRAG": row}}))
    found = pages.recorded("shuffle", tmp_path)
    assert pages.summaries(found, "psnr") == {"DRAG": (2.0, 1.0, 3.0)}
    assert pages.origin(found) == "Recorded by `dragkit measure shuffle` on 2 photos, 2026-01-01, commit abc, cpu."
    with pytest.raises(ValueError, match="metric is 'ssim'"):
        pages.summaries(found, "ssim")
    monkeypatch.setattr(pages, "results_folder", lambda: (_ for _ in ()).throw(FileNotFoundError("no book")))
    assert pages.recorded("shuffle") is None


def test_names_of_two_close_levels_stand_on_both_sides():
    line = {"a": [0.0, 1.0]}
    for levels, expected in (
        ({"high": 0.52, "low": 0.5}, {"high": "bottom", "low": "top"}),
        ({"high": 0.9, "low": 0.5}, {"high": "bottom", "low": "bottom"}),
    ):
        axes = plots.curves(line, xlabel="x", ylabel="y", levels=levels).axes[0]
        assert {text.get_text(): text.get_va() for text in axes.texts} == expected


def test_the_name_of_a_level_keeps_away_from_the_points():
    for line, expected in (
        ([0.0, 1.0], ("right", "bottom")),
        ([0.0, 0.56], ("left", "bottom")),  # a point at the right end, above the level
    ):
        axes = plots.curves({"a": line, "b": [0.0, 1.0]}, xlabel="x", ylabel="y", levels={"level": 0.5}).axes[0]
        assert [(text.get_ha(), text.get_va()) for text in axes.texts] == [expected]
    both = {"a": [0.56, 0.56], "b": [0.0, 1.0]}  # at both ends above it
    axes = plots.curves(both, xlabel="x", ylabel="y", levels={"level": 0.5}).axes[0]
    assert [(text.get_ha(), text.get_va()) for text in axes.texts] == [("right", "top")]


def test_budgets_become_curves_over_their_turns():
    spent = {
        "LM": [[20, 80], [0.5, 0.4], [0.4, 0.3], [0.6, 0.5]],
        "DRAG": [[20, 80], [0.3, 0.2], [0.2, 0.1], [0.4, 0.3]],
    }
    axes = plots.over_budgets(spent, ylabel="ST-LPIPS", levels={"ceiling": 0.1}, log_x=True).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[0.5, 0.4], [0.3, 0.2]]
    assert list(axes.get_xticks()) == [20, 80] and len(axes.collections) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["LM", "DRAG"]
