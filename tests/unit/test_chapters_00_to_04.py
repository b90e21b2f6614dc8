"""Chapters 0 to 4: the sentences follow the numbers, and the geometry of one step is right."""

from __future__ import annotations

import math

import pytest
import torch

from dragkit import zoo
from dragkit.attacks import guidance
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.config import DragConfig
from draglab.chapters import ch00_quickstart as quickstart
from draglab.chapters import ch01_split_inference as splitting
from draglab.chapters import ch02_diffusion_prior as prior
from draglab.chapters import ch03_tweedie as tweedie
from draglab.chapters import ch04_guidance as steering
from draglab.pages.study import Study, study


def attack(distance: float, colour: float = 0.5) -> Reconstruction:
    images = torch.full((2, 3, 8, 8), colour)
    return Reconstruction(images, torch.full((2,), distance), nfe=1, seconds=1.0, threat=ThreatModel())


@pytest.mark.parametrize(("got", "says"), [(0.1, "The message was not read"), (0.6, "50% of the way")])
def test_a_reconstruction_counts_from_the_prior_only_picture(got, says):
    levels = {"prior only": 0.2, "rebuilt from h": got, "decoder ceiling": 1.0}
    assert says in quickstart.share_read({k: torch.tensor([v]) for k, v in levels.items()}, ["cat"]).text


def test_growth_over_depth():
    text = splitting.growth({"a": [1.0, 9.0, 2.0], "b": [1.0, 0.5], "c": [1.0, 1.05]}, ["a", "b", "c"]).text
    assert [word for word in ("grows", "shrinks", "hardly changes") if word in text] == [
        "grows",
        "shrinks",
        "hardly changes",
    ]
    assert text.index("grows") < text.index("shrinks") < text.index("hardly")


def test_kinds_of_pictures_keep_their_pixels():
    photos = torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    kinds = prior.kinds_of_pictures(photos, seed=0)
    assert torch.equal(kinds["upside down"].flip(-2), photos)
    assert torch.equal(kinds["tiles shuffled"].flatten().sort()[0], photos.flatten().sort()[0])
    assert not torch.equal(kinds["tiles shuffled"], photos)


def test_recorded_studies_show_themselves_or_their_absence():
    assert "t < 333" in study("noise").show(prior.beyond_a_gaussian).text
    assert "Not available" in Study("noise", None).show(prior.beyond_a_gaussian).text
    assert "short of it" in study("overfit").show(quickstart.short_of_the_ceiling).text


def test_worth_of_the_guess_and_of_the_client():
    ones = torch.ones(2, 4)
    assert "up to t = 450" in tweedie.worth_of_the_guess([450, 700], ones * torch.tensor([[0.5], [2.0]]), ones).text
    assert "of no use" in tweedie.worth_of_the_guess([450, 700], 2 * ones, ones).text
    near = tweedie.what_the_client_needs([450, 700], ones * torch.tensor([[0.2], [0.9]]), 0.3 * ones, another=0.8).text
    assert "1 of 2 timesteps: 700" in near
    assert "from t = 700 on" in near


def test_gradients_come_back_out_of_adam():
    gradients = [torch.randn((1, 2, 2, 2), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    adam, notes = guidance.AdamState.zeros_like(gradients[0]), steering.Notes()
    for gradient in gradients:
        guidance.adam_direction(gradient, adam, (0.9, 0.999))
        notes.moments.append(adam.m)
    for found, gradient in zip(notes.gradients(0.9), gradients, strict=True):
        torch.testing.assert_close(found, gradient)


def test_the_plane_of_a_step():
    noise, direction = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    noise[..., 0, 0], direction[..., 0, 0], direction[..., 0, 1] = 2.0, -1.0, -1.0
    plane = steering.Plane(noise, direction, radius=2.0)
    assert plane.angle == pytest.approx(45)
    torch.testing.assert_close(plane.place([noise, -direction]), torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert plane.turned(-direction * 3) == pytest.approx(45)


def test_rates_in_words():
    found = {0.2: attack(0.3), 0.5: attack(0.2), 1.0: attack(0.1, colour=1.0)}
    similarity = {rate: torch.tensor([s, s]) for rate, s in ((0.2, 0.5), (0.5, 0.7), (1.0, 0.4))}
    text = steering.too_little_too_much(found, similarity, torch.full((2, 3, 8, 8), 0.5), turns=40).text
    for words in ("sees: rate 1.0", "only we see: rate 0.5", "rate 1.0. Over-driven", "fits the message, and not"):
        assert words in text


def test_shells_get_thin():
    assert steering.shell_table({2: 0.5}).rows == [["n = 2", "0.500", f"{1 / math.sqrt(4):.3f}"]]


def test_the_first_chapters_describe_a_real_client_and_its_message():
    client, photos = zoo.load_client(at="block:6"), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        h = client(photos)
    assert "block:6" in quickstart.message_in_words(client, h[0]).text
    assert splitting.size_table({"half": client}, jpeg=2000.0).rows[-1][:2] == ["IR at half", "65 x 128"]
    assert splitting.room_in_the_message(client, jpeg=2000.0).text
    spread = splitting.reactions(client, photos, {"the same": photos})
    assert spread["the same"] == pytest.approx((0, 0, 0), abs=1e-6)


def test_an_attack_is_told_with_the_settings_of_drag():
    config = DragConfig.small(10)
    assert "DRAG (small, k=1) took 1 turns" in quickstart.attack_in_words(attack(0.1), config, "cpu").text
    assert "DRAG (small, k=1)" in tweedie.which_is_nearer(attack(0.1), attack(0.2), config).text
    assert "DRAG (small, k=1)" in steering.decays_in_words({"Adam": attack(0.1), "raw": attack(0.2)}, config).text
