"""Every method is a row that runs; equal budgets follow from what an iteration costs."""

import pytest
import torch

from dragkit import methods, zoo
from dragkit.attacks import threat
from dragkit.attacks.drag import drag
from dragkit.attacks.image_prior import ImagePriorConfig
from dragkit.attacks.message import Message
from dragkit.attacks.rmle import RmleConfig
from dragkit.config import DragConfig
from dragkit.priors.gan import WEncoder
from draglab.cases import Case
from draglab.studies import budget


@pytest.mark.parametrize("name", ["drag", "rmle", "lm"])
def test_methods_without_further_models_run_on_the_embedded_client(name):
    client = zoo.load_client(at="block:2")
    h = client(torch.rand(2, 3, 64, 64))
    case = Case(methods.METHODS[name].budget(2), "block:2", method=name)
    found = methods.METHODS[name].run(Message(h, client), case.knowledge(), methods.Setting(case.config, 0))
    assert found.images.shape == (2, 3, 64, 64)
    assert found.nfe == 2 + (name == "drag")  # DRAG ends with one more prediction


def test_glass_plus_starts_from_the_encoder_and_spends_everything_on_styles():
    case = Case(methods.METHODS["glass++"].budget(3), "block:2", method="glass++")
    known = case.knowledge()
    with pytest.raises(ValueError, match="train gan-encoder --client vit-imagenette64 --at block:2"):
        _ = known.encoder
    client, gan = zoo.load_client(at="block:2"), zoo.load_gan()
    known.__dict__["encoder"] = WEncoder(65, 128, gan.num_layers, gan.style_dim, client=client.name, at="block:2")
    found = methods.METHODS["glass++"].run(
        Message(client(torch.rand(2, 3, 64, 64)), client), known, methods.Setting(case.config, 0)
    )
    assert found.images.shape == (2, 3, 64, 64) and found.nfe == 3 and found.trace["distance"].shape == (3, 2)
    assert known.names(("gan", "encoder")) == ["gan64", "gan64-encoder/vit-imagenette64/block-2"]


def test_drag_from_grey_is_drag_from_a_grey_guess_and_knows_no_more():
    client = zoo.load_client(at="block:2")
    h = client(torch.rand(2, 3, 64, 64))
    case = Case(DragConfig.small_plus(3, strength=0.5), "block:2", method="drag-grey")
    known = case.knowledge()
    found = methods.METHODS["drag-grey"].run(Message(h, client), known, methods.Setting(case.config, 0))
    grey = torch.full((2, 3, 64, 64), 0.5)
    assert torch.equal(found.images, drag(Message(h, client), known.diffusion, case.config, start=grey, seeds=0).images)
    assert found.nfe == 3 + 1
    assert found.threat == threat.ATTACKER


def test_variants_are_no_rows_of_the_comparisons():
    here = budget.available(zoo.CLIENT, "block:12")
    assert {"drag", "drag++", "rmle", "lm", "glass", "glass++", "inverse"} == set(here)
    assert all(not methods.METHODS[name].variant for name in here)


def test_method_follows_from_the_settings():
    told = {methods.method_of(c) for c in (DragConfig.ci(), RmleConfig.fast(), ImagePriorConfig.fast(), None)}
    assert told == {"drag", "rmle", "lm", "inverse"}
    with pytest.raises(TypeError, match="config is a int"):
        methods.method_of(3)


def test_a_case_refuses_settings_of_another_method():
    with pytest.raises(TypeError, match="takes a RmleConfig"):
        Case(DragConfig.ci(), "block:6", method="rmle")
    with pytest.raises(ValueError, match="method is 'magic'"):
        Case(DragConfig.ci(), "block:6", method="magic")


def test_names_of_models_reach_the_specification():
    known = Case(DragConfig.ci(), "block:9").knowledge()
    assert known.names(("diffusion", "network")) == [
        "imagenette64/unet",
        "imagenette64/vae",
        "inverse/vit-imagenette64/block-9",
    ]


def test_equal_seconds_gives_cheap_methods_more_iterations(monkeypatch):
    monkeypatch.setattr(budget, "seconds_per_iteration", lambda *given: {"drag": 0.04, "rmle": 0.01, "lm": 0.08})
    got = budget.equal_seconds("any", "block:6", ["drag", "rmle", "lm", "inverse"], turns=100)
    assert got["drag"].num_steps * got["drag"].recurrence == 100
    assert got["rmle"].iterations == 400 and got["lm"].iterations == 50
    assert got["inverse"] is None


def test_budgets_of_the_small_presets_are_what_they_say():
    for turns in (1, 3, 40, 100, 160, 1000, 4000):
        config = DragConfig.small(turns)
        assert config.num_steps * config.recurrence == turns and config.num_steps <= 1000
    for turns in (1, 3, 40, 100, 160):
        plus = DragConfig.small_plus(turns)
        kept = max(1, int(plus.strength * plus.num_steps))
        assert abs(kept * plus.recurrence - turns) <= 2 * plus.recurrence
    for strength in (0.1, 0.5, 0.7):
        plus = DragConfig.small_plus(48, strength)
        assert plus.strength == strength and int(strength * plus.num_steps) in (47, 48)


def test_settings_are_shown_with_the_method():
    drag, inverse = methods.METHODS["drag"], methods.METHODS["inverse"]
    assert (
        drag.shown(DragConfig.small(100)) == "DRAG (small, k=1)"
        and drag.shown(DragConfig.paper()) == "DRAG (published)"
    )
    assert drag.shown(DragConfig.fast()) == "DRAG (published, k=4)"
    assert drag.shown(DragConfig.small(10).with_(eta=1.0)) == "DRAG (own settings, k=1)"
    assert inverse.shown(None) == "inverse network"
    assert methods.METHODS["drag++"].shown(DragConfig.small_plus(15)) == "DRAG++ (small, k=1)"


def test_published_settings_for_fewer_turns_are_those_of_the_presets():
    for turns, preset in ((4000, DragConfig.paper()), (400, DragConfig.fast()), (80, DragConfig.ci())):
        assert DragConfig.published(turns) == preset
    assert DragConfig.published_plus(1200) == DragConfig.paper_plus()


def test_a_prior_recommends_what_suits_it(tiny_prior):
    from dragkit.priors.diffusion import LatentPrior

    ours, own = zoo.load_prior(), LatentPrior.from_pretrained(tiny_prior)
    assert ours.recommended(40) == DragConfig.small(40)
    assert ours.recommended(40, guess=True) == DragConfig.small_plus(40)
    assert own.recommended() == DragConfig.fast() and own.recommended(120, guess=True).strength == 0.3
