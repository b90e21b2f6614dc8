"""Measurements and sweeps compare on the same photos, and their verdicts follow from the intervals."""

import json

import pytest
import torch

from dragkit.config import DragConfig
from draglab import catalogue, tables
from draglab.cases import Result
from draglab.pages import claims, pages
from draglab.studies import depth, first_checks, ingredients, tuning


def study(name):
    return catalogue.SWEEPS[name].load()


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """Attacks whose result is the photo with noise; how much noise is decided per case."""
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))
    photos = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    levels, seen = {}, []

    def ceiling(p):
        return (p + levels["ceiling"] * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)

    def run(case, **options):
        seen.append(case)
        noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(1))
        images = (photos + levels["of"](case) * noise).clamp(0, 1)
        return Result(photos, images, torch.full((6,), 0.1), 0.5, 10, ["cpu"])

    for module in ("tables", "studies.patience", "studies.pixel_space", "studies.start", "studies.tuning"):
        monkeypatch.setattr(f"draglab.{module}.run", run)
    monkeypatch.setattr(
        tables,
        "references",
        lambda p, prior: {"mean image": torch.full_like(p, 0.5), "decoder ceiling": ceiling(p)},
    )
    monkeypatch.setattr("draglab.studies.patience.round_trip", lambda p, prior: ceiling(p))
    monkeypatch.setattr(tables.zoo, "load_prior", lambda name: None)

    def use(level, ceiling=0.01):
        levels.update(of=level, ceiling=ceiling)
        return seen

    return use, tmp_path


def _claims(folder):
    return {c["id"]: c for c in json.loads((folder / "claims.json").read_text())}


def test_overfit_is_judged_against_the_photo_or_against_a_low_ceiling(faked):
    use, folder = faked
    seen = use(lambda case: 0.05)
    first_checks.overfit(n=6, folder=folder)
    made = _claims(folder)["overfit-embeddings"]
    assert seen[0].config == DragConfig.paper() and seen[0].at == "block:0"
    assert made["holds"] and made["key"] == "ms_ssim"
    use(lambda case: 0.4)
    first_checks.overfit(n=6, folder=folder)
    assert not _claims(folder)["overfit-embeddings"]["holds"]
    use(lambda case: 0.4, ceiling=0.4)  # as good as the decoder can be
    first_checks.overfit(n=6, folder=folder)
    made = _claims(folder)["overfit-embeddings"]
    assert made["key"] == "ms_ssim / ceiling" and made["value"] == pytest.approx(1, abs=0.05)


def test_deep_compares_at_the_deepest_readable_block(faked, monkeypatch):
    use, folder = faked
    monkeypatch.setattr(first_checks, "deepest_readable", lambda name: ("block:10", {"block:10": (0.7, 0.6, 0.8)}))
    seen = use(lambda case: 0.3 if case.name == "rmle" else 0.05)
    out = first_checks.deep(n=6, iterations=40, folder=folder)
    assert {c.at for c in seen} == {"block:10"} and {c.client for c in seen} == {"focus-vit-s14"}
    assert json.loads(out.read_text())["linear_readout_ms_ssim"] == {"block:10": [0.7, 0.6, 0.8]}
    assert _claims(folder)["drag-vs-rmle-deep"]["holds"]
    use(lambda case: 0.05)
    first_checks.deep(n=6, at="block:10", iterations=40, folder=folder)
    assert not _claims(folder)["drag-vs-rmle-deep"]["holds"]


def test_ablation_verdicts_follow_the_measurement(faked):
    use, folder = faked
    use(lambda case: 0.3 if not case.config.tweedie else 0.05)
    out = ingredients.ablations(turns=20, n=6, at=("block:12",), folder=folder)
    rows = json.loads(out.read_text())["rows"]
    assert "no Adam, block:12" in rows and rows["DRAG, block:12"]["seconds_per_photo"] == 0.5
    made = _claims(folder)
    assert made["tweedie-needed"]["holds"] and made["tweedie-needed"]["ci_low"] > 0
    assert not made["adam-helps"]["holds"]  # the same noise, so no difference


def test_recurrence_curve_keeps_turns_or_steps(faked):
    use, folder = faked
    seen = use(lambda case: 0.2 / case.config.recurrence)
    ingredients.recurrence_curve(turns=32, steps=5, n=6, at=("block:12",), folder=folder)
    turns = [c.config.num_steps * c.config.recurrence for c in seen[:5]]
    assert turns == [32] * 5 and [c.config.num_steps for c in seen[5:]] == [5] * 5
    made = _claims(folder)["recurrence-curve"]
    assert made["holds"] and "best mean: k=16" in made["statement"]


def test_rates_need_an_optimum_inside(faked):
    use, folder = faked
    use(lambda case: 0.02 + abs(case.config.guidance_rate - 0.2))
    ingredients.rates(turns=20, n=6, at=("block:12",), folder=folder)
    assert _claims(folder)["guidance-rate-tradeoff"]["holds"]
    use(lambda case: 0.6 - 0.5 * case.config.guidance_rate)
    ingredients.rates(turns=20, n=6, at=("block:12",), folder=folder)
    assert not _claims(folder)["guidance-rate-tradeoff"]["holds"]


def test_baselines_claim_per_rival_and_block(faked, monkeypatch):
    use, folder = faked
    use(lambda case: {"drag": 0.05, "rmle": 0.3, "lm": 0.05}[case.name])
    monkeypatch.setattr("draglab.studies.budget.available", lambda client, at: ["drag", "rmle", "lm"])
    monkeypatch.setattr(
        "draglab.studies.budget.seconds_per_iteration", lambda *given: {"drag": 1.0, "rmle": 0.5, "lm": 1.0}
    )
    seen = use(lambda case: {"drag": 0.05, "rmle": 0.3, "lm": 0.05}[case.name])
    out = depth.baselines(turns=20, n=6, at=("block:3",), folder=folder)
    told = json.loads(out.read_text())
    assert (
        told["rows"]["rMLE, block:3"]["method"] == "rMLE"
        and told["rows"]["rMLE, block:3"]["config"]["iterations"] == 40
    )
    made = _claims(folder)
    assert made["drag-beats-rmle/vit-imagenette64/block-3"]["holds"]
    assert not made["drag-beats-lm/vit-imagenette64/block-3"]["holds"]
    assert {c.precision for c in seen} == {"bfloat16"}


def test_search_looks_at_training_photos_only_and_refines_the_best(faked):
    use, folder = faked
    seen = use(lambda case: 0.1 + 0.3 * abs(case.config.guidance_rate - 0.65) + 0.05 * case.config.recurrence)
    told = json.loads(tuning.search(turns=20, n=6, trials=4, folder=folder).read_text())
    assert {c.subset for c in seen} == {"train"} and {c.at for c in seen} == {"block:0", "block:12"}
    assert seen[0].config == DragConfig(num_steps=5, recurrence=4)
    assert told["winner"]["guidance_rate"] == 0.65 and told["winner"]["recurrence"] == 1
    assert all(c.config.num_steps * c.config.recurrence == 20 for c in seen)


def test_the_small_preset_is_the_winner_of_the_recorded_search():
    recorded = json.loads((claims.results_folder() / "search.json").read_text())
    winner = DragConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in recorded["winner"].items()})
    assert DragConfig.small(recorded["turns"]) == winner


def test_the_strength_of_the_small_preset_was_chosen_on_training_photos():
    recorded = json.loads((claims.results_folder() / "starts.json").read_text())
    on_training_photos = recorded["on_training_photos"]
    assert float(min(on_training_photos, key=on_training_photos.get)) == recorded["chosen"]
    assert DragConfig.small_plus(recorded["turns"]).strength == recorded["chosen"]


def test_the_pixel_rate_is_chosen_on_training_photos(faked, monkeypatch):
    use, folder = faked
    pixels = study("pixels")
    monkeypatch.setattr(
        "draglab.studies.budget.seconds_per_iteration",
        lambda client, at, methods: {"drag": 0.02, "drag-pixel": 0.04},
    )
    monkeypatch.setattr("draglab.studies.pixel_space._seen", lambda name: "9")

    def level(case):  # on training photos 0.4 is best, on the others 0.8
        if case.method != "drag-pixel":
            return 0.1
        return 0.2 + abs(case.config.guidance_rate - (0.4 if case.subset == "train" else 0.8)) / 4

    seen = use(level)
    path = pixels(turns=8, n=6, at=("block:6",), folder=folder)
    attacked = [case for case in seen if case.subset == "val" and case.method == "drag-pixel"]
    assert [case.config.guidance_rate for case in attacked] == [0.4, 0.4]
    assert [case.config.num_steps for case in attacked] == [8, 4] and {case.n for case in attacked} == {6}
    assert json.loads(path.read_text())["rate"] == 0.4
    made = _claims(folder)["latent-beats-pixels/block-6"]
    assert made["holds"] and made["value"] < 0
    use(lambda case: 0.1 if case.method == "drag-pixel" else 0.3)
    pixels(turns=8, n=6, at=("block:6",), folder=folder)
    assert not _claims(folder)["latent-beats-pixels/block-6"]["holds"]


def test_published_budgets_are_compared_block_by_block(faked):
    use, folder = faked
    seen = use(lambda case: 0.1 if case.name in ("drag", "glass") else 0.4)
    study("published")(n=6, at=("block:3",), folder=folder)
    budgets = {case.name: case.config for case in seen if case.config != DragConfig.small(1000)}
    assert budgets["drag"] == DragConfig.paper() and budgets["rmle"].iterations == budgets["lm"].iterations == 20_000
    assert budgets["glass"].z_iterations == budgets["glass"].w_iterations == 10_000
    made = _claims(folder)
    assert made["published-drag-beats-rmle/block-3"]["holds"] and made["published-drag-beats-lm/block-3"]["holds"]
    assert not made["published-drag-beats-glass/block-3"]["holds"]  # equal is not better


def test_budgets_give_every_method_the_same_time_and_the_inverse_network_one_pass(faked, monkeypatch):
    use, folder = faked
    monkeypatch.setattr("draglab.studies.budget.available", lambda client, at: ["drag", "rmle", "inverse"])
    monkeypatch.setattr("draglab.studies.budget.seconds_per_iteration", lambda *given: {"drag": 1.0, "rmle": 0.25})
    seen = use(lambda case: 0.1)
    rows = json.loads(study("budgets")(n=6, folder=folder).read_text())["rows"]
    assert {case.config.iterations for case in seen if case.name == "rmle"} == {80, 160, 320, 640}
    assert rows["DRAG, 160 turns"]["turns"] == 160 and "turns" not in rows["inverse network"]
    assert len(rows) == 4 + 4 + 1


def test_patience_says_who_is_ahead_after_seconds_and_after_minutes(faked, monkeypatch):
    use, folder = faked
    monkeypatch.setattr("draglab.studies.budget.seconds_per_iteration", lambda *given: {"drag": 1.0, "lm": 0.5})
    seen = use(lambda case: 0.1 + 40 / case.config.iterations if case.name == "lm" else 0.3)
    told = json.loads(study("patience")(n=6, folder=folder).read_text())
    assert {case.config.iterations for case in seen if case.name == "lm"} == {160, 500, 2000, 8000}
    assert {case.config.num_steps for case in seen if case.name == "drag"} == {80, 250, 1000}
    made = _claims(folder)
    assert not made["lm-overtakes-drag/block-12/80-turns"]["holds"]
    assert made["lm-overtakes-drag/block-12/4000-turns"]["holds"]
    curves = pages.by_turns(told, "st_lpips")
    assert curves.keys() == {"DRAG", "LM"} and curves["LM"][0] == [80, 250, 1000, 4000]
    assert len(told["rows"]["decoder ceiling"]["distance"]) == 6


def test_a_good_start_is_told_from_a_late_one(faked):
    use, folder = faked
    seen = use(lambda case: 0.05 + case.config.strength / 4 if case.name == "drag++" else 0.4)
    told = json.loads(study("starts")(turns=40, n=6, at=("block:6",), folder=folder).read_text())
    assert {case.config.strength for case in seen if case.name == "drag-grey"} == {0.05, 0.1, 0.3, 0.5, 0.7}
    assert [case.config.strength for case in seen if case.subset == "train"] == told["strengths"]
    assert told["chosen"] == 0.05
    assert {"noise, block:6", "the guess itself, block:6"} < set(told["rows"])
    assert _claims(folder)["guess-beats-grey/block-6"]["holds"]
    use(lambda case: 0.1)  # only the late start counts
    study("starts")(turns=40, n=6, at=("block:6",), folder=folder)
    assert not _claims(folder)["guess-beats-grey/block-6"]["holds"]
