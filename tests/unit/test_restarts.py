"""Restarts: the first is the plain run, the choice needs no photo, and nothing depends on how they are batched."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
import toys

from dragkit.attacks.drag import drag
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.restarts import STRIDE, restarts
from dragkit.attacks.threat import ThreatModel
from dragkit.config import DragConfig

CONFIG = DragConfig(num_steps=6, recurrence=2)


@pytest.fixture
def problem():
    client = toys.token_client()
    x = toys.photos(3)
    return Message(client(x), client), toys.standard_prior()


class Scripted:
    """An attack that gives the image the value of its seed, and the distance that a table says."""

    def __init__(self, distance: dict[int, float], interrupt_at: int | None = None):
        self.distance, self.interrupt_at, self.calls = distance, interrupt_at, []

    def __call__(self, message: Message, prior, config, *, seeds) -> Reconstruction:
        h = message.h
        self.calls.append((h.clone(), list(seeds), config))
        images = torch.stack([torch.full((3, 2, 2), self.value(seed), dtype=h.dtype) for seed in seeds])
        distance = torch.tensor([self.distance[seed] for seed in seeds], dtype=h.dtype)
        failed = [5 if d != d else None for d in distance.tolist()]
        interrupted = self.interrupt_at == len(self.calls)
        return Reconstruction(images, distance, 7, 0.5, ThreatModel(), failed, interrupted)

    @staticmethod
    def value(seed: int) -> float:
        return (seed % STRIDE + 10 * (seed // STRIDE)) / 100


NAN = float("nan")
TABLE = {  # three images, seeds 1, 2, 3; three restarts
    **{1: 0.5, 2: 0.1, 3: NAN},
    **{1 + STRIDE: 0.2, 2 + STRIDE: NAN, 3 + STRIDE: NAN},
    **{1 + 2 * STRIDE: 0.3, 2 + 2 * STRIDE: 0.1, 3 + 2 * STRIDE: NAN},
}


@pytest.mark.parametrize("batch", [None, 9, 4, 1])
def test_smallest_distance_wins_and_nan_loses(problem, batch):
    attack = Scripted(TABLE)
    found = restarts(attack, *problem, CONFIG, num_samples=3, seeds=1, batch=batch)
    assert found.images.shape == (3, 3, 3, 2, 2) and found.distance.shape == (3, 3)
    assert found.chosen.tolist() == [1, 0, 0]  # of equal distances the first; where all failed, 0
    assert found.best.images[:, 0, 0, 0].tolist() == pytest.approx([0.11, 0.02, 0.03])
    assert found.best.distance[:2].tolist() == [0.2, 0.1] and found.best.distance[2].isnan()
    assert found.best.failed_at == [None, None, 5]
    assert found.best.nfe == 21 and found.best.seconds == pytest.approx(0.5 * len(attack.calls))
    sizes = [len(h) for h, _, _ in attack.calls]
    assert sum(sizes) == 9 and max(sizes) <= (batch or 9)
    assert [s for _, seeds, _ in attack.calls for s in seeds] == list(TABLE)
    assert torch.equal(torch.cat([h for h, _, _ in attack.calls]), problem[0].h.repeat(3, 1, 1))
    assert all(config is CONFIG for _, _, config in attack.calls)


def test_first_restart_is_the_plain_run_and_the_others_differ(problem):
    found = restarts(drag, *problem, CONFIG, num_samples=3, seeds=11)
    plain = drag(*problem, CONFIG, seeds=11)
    torch.testing.assert_close(found.images[0], plain.images)
    torch.testing.assert_close(found.distance[0], plain.distance)
    assert (found.images[1:] - found.images[0]).flatten(2).abs().amax(2).min() > 1e-6
    assert torch.equal(found.best.distance, found.distance.min(0).values)
    assert (found.best.distance <= plain.distance).all()


def test_an_image_alone_gets_the_same_restarts(problem):
    message, prior = problem
    together = restarts(drag, message, prior, CONFIG, num_samples=2, seeds=[5, 6, 7], batch=4)
    alone = restarts(drag, message.rows(slice(1, 2)), prior, CONFIG, num_samples=2, seeds=[6])
    torch.testing.assert_close(alone.images[:, 0], together.images[:, 1])
    assert alone.chosen[0] == together.chosen[1]


def test_a_mask_goes_with_its_image_and_partial_fixes_other_arguments(problem):
    message, prior = problem
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[torch.arange(3), torch.tensor([0, 1, 2])] = False
    masked = Message(message.h, message.client, mask)
    found = restarts(drag, masked, prior, CONFIG, num_samples=2, batch=4)
    torch.testing.assert_close(found.images[0], drag(masked, prior, CONFIG).images)
    start = torch.full((3, 3, prior.image_size, prior.image_size), 0.5)
    begun = restarts(partial(drag, start=start.repeat(2, 1, 1, 1)), message, prior, CONFIG, num_samples=2)
    torch.testing.assert_close(begun.images[0], drag(message, prior, CONFIG, start=start).images)
    with pytest.raises(ValueError, match="start is"):
        restarts(partial(drag, start=start), message, prior, CONFIG, num_samples=2)


def test_interrupted_restarts_keep_what_is_done(problem):
    attack = Scripted(TABLE, interrupt_at=2)
    found = restarts(attack, *problem, CONFIG, num_samples=3, seeds=1, batch=2)
    assert len(attack.calls) == 2 and found.best.interrupted
    assert found.distance.isnan().tolist() == [[False, False, True], [False, True, True], [True, True, True]]
    assert found.images[2].unique().tolist() == [0.5]
    assert found.chosen.tolist() == [1, 0, 0]


def test_no_argument_could_carry_the_photo():
    names = set(inspect.signature(restarts).parameters)
    assert names == {"attack", "message", "prior", "config", "num_samples", "seeds", "batch"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "num_samples is 0; it must be 1 or more"),
        ({"num_samples": 1.5}, TypeError, "num_samples is 1.5"),
        ({"num_samples": None}, TypeError, "num_samples is None"),
        ({"batch": 0}, ValueError, "batch is 0"),
        ({"seeds": [1, 2]}, ValueError, "seeds has 2 entries"),
    ],
)
def test_wrong_arguments_are_named_before_any_attack(problem, options, error, message):
    attack = Scripted({})
    with pytest.raises(error, match=message):
        restarts(attack, *problem, CONFIG, **options)
    assert attack.calls == []
