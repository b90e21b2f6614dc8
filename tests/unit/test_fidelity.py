"""dragkit's DRAG is the published algorithm: its latents follow a plain transcription (`plain.py`) turn by turn, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import plain
import pytest
import torch
from torch import Tensor

from dragkit.attacks.drag import DragState, drag
from dragkit.attacks.message import Message
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.priors.diffusion import LatentPrior
from dragkit.streams import SeededNoise

LAYER = 2
SHORT = DragConfig(num_steps=10, recurrence=3)  # the published settings but for the number of turns
PAIRS = {"unconditional-vit": ("prior", "vit"), "sd15-clip": ("sd15", "clip")}


class Pair:
    """One prior and one client, loaded by dragkit and, separately, by the plain transcription."""

    def __init__(self, prior: Path, client: Path):
        self.prior = LatentPrior.from_pretrained(prior, dtype=torch.float64)
        self.client = SplitClient.from_pretrained(client, f"block:{LAYER}", dtype=torch.float64)
        self.client.interpolation = (
            "bilinear"  # the published attack's, whatever the client's processor says (CLIP: bicubic)
        )
        self.nets = plain.load_networks(prior, client, LAYER)

    def photos(self, batch: int, seed: int = 0) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        coarse = torch.rand(batch, 3, 8, 8, generator=g, dtype=torch.float64)
        return torch.nn.functional.interpolate(coarse, size=64, mode="bilinear")

    def sent(self, batch: int = 1) -> Tensor:
        with torch.no_grad():
            return self.client(self.photos(batch))

    def draws(self, seed: int = 3407) -> Iterator[Tensor]:
        source = SeededNoise([seed], torch.float64)
        while True:
            yield source.draw(self.nets.latent_shape)


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, tiny_prior: Path, tiny_sd15: Path, tiny_client: Callable[[str], Path]) -> Pair:
    prior, client = PAIRS[request.param]
    return Pair({"prior": tiny_prior, "sd15": tiny_sd15}[prior], tiny_client(client))


def latents(stop_after: int | None = None) -> tuple[list[Tensor], Callable[[DragState], bool]]:
    """A list that fills with the latent after every turn, and the callback that fills it."""
    seen: list[Tensor] = []

    def callback(state: DragState) -> bool:
        seen.append(state.z.clone())
        return len(seen) == stop_after

    return seen, callback


def assert_same(ours: list[Tensor], theirs: list[Tensor], rel: float = 1e-6) -> None:
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        error = float((a - b).norm() / b.norm())
        assert error < rel, f"turn {i}: relative difference {error:.3g}"


def test_the_networks_are_read_alike(pair):
    """What both sides see of the photo, before any diffusion: IR (resize, clamp, normalise, cut), encoder, decoder, noise."""
    x = pair.photos(1) * 1.4 - 0.2  # also outside [0, 1]
    small = plain.tv.resize(x * 2 - 1, [32, 32], antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(
            pair.client(x), pair.nets.hidden(plain.client_input(pair.nets, small)), rtol=1e-9, atol=1e-9
        )
        z = pair.nets.encode(x * 2 - 1)
        torch.testing.assert_close(pair.prior.encode(x), z, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pair.prior.decode(z) * 2 - 1, pair.nets.decode(z), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(pair.prior.predict_noise(z, 500), pair.nets.eps(z, 500), rtol=1e-9, atol=1e-9)
    assert torch.equal(pair.prior.alpha_bar, plain.alphas_cumprod())


def test_trajectory(pair):
    """All 30 turns, Adam's moments kept from first to last, the no-op at t = 0 and the decoded result."""
    seen, counts = [], []

    def callback(state: DragState) -> None:
        seen.append(state.z.clone())
        counts.append(state.adam.count)

    h = pair.sent()
    result = drag(Message(h, pair.client), pair.prior, SHORT, seeds=[3407], callback=callback)
    theirs = plain.published_drag(pair.nets, h, pair.draws(), num_steps=10, recurrence=3)
    assert len(theirs) == 30
    assert_same(seen, theirs)
    assert_same(seen[-3:], [seen[-4]] * 3, 1e-12)  # t = 0: the last k turns change nothing
    assert counts == list(range(1, 31))
    assert result.nfe == 30
    with torch.no_grad():  # the last latent itself is decoded, as published
        torch.testing.assert_close(
            result.images, ((pair.nets.decode(seen[-1]) + 1) / 2).clamp(0, 1), rtol=1e-9, atol=1e-9
        )


def test_published_preset(pair):
    """250 steps of 16 turns, stopped in the second timestep: z_T is the first draw itself, one prediction per turn from t = 996."""
    asked: list[tuple[Tensor, int]] = []
    real = pair.prior.predict_noise

    def spy(z_t: Tensor, t: int) -> Tensor:
        asked.append((z_t.detach().clone(), t))
        return real(z_t, t)

    seen, callback = latents(stop_after=18)
    h = pair.sent()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair.prior, "predict_noise", spy)
        drag(Message(h, pair.client), pair.prior, DragConfig.paper(), seeds=[3407], callback=callback)
    theirs = plain.published_drag(pair.nets, h, pair.draws(), num_steps=250, recurrence=16, stop_after=18)
    assert_same(seen, theirs)
    assert torch.equal(asked[0][0], next(pair.draws()))
    assert [t for _, t in asked] == [996] * 16 + [992] * 2


def test_trajectory_from_a_first_guess(pair):
    """DRAG++: encoder's mode, noise of the first timestep of the last 30 %, then the same loop."""
    seen, callback = latents()
    h, start = pair.sent(), pair.photos(1, seed=5)
    drag(Message(h, pair.client), pair.prior, SHORT.with_(strength=0.3), start=start, seeds=[7], callback=callback)
    theirs = plain.published_drag(pair.nets, h, pair.draws(7), num_steps=10, recurrence=3, start=start, strength=0.3)
    assert len(theirs) == 9
    assert_same(seen, theirs)


def test_trajectory_with_dropped_tokens(pair):
    seen, callback = latents(stop_after=3)
    h = pair.sent()
    kept = list(range(0, h.shape[1], 2))
    mask = torch.zeros(1, h.shape[1], dtype=torch.bool)
    mask[0, kept] = True
    drag(Message(h, pair.client, mask), pair.prior, SHORT, seeds=[3407], callback=callback)
    theirs = plain.published_drag(pair.nets, h, pair.draws(), num_steps=10, recurrence=3, kept=kept, stop_after=3)
    assert_same(seen, theirs)


@pytest.mark.parametrize(
    "change",
    [
        {"betas": (0.9, 0.99)},
        {"clip": None},
        {"regularisation": 0.0},
        {"guidance_rate": 0.201},
        {"eta": 0.999},
        {"interpolation": "slerp"},
        {"smoothing": "none"},
    ],
    ids=str,
)
def test_the_comparison_can_fail(pair, change):
    """Each of these small changes of the algorithm is seen within two turns."""
    seen, exact = latents(stop_after=2), latents(stop_after=2)
    h = pair.sent()
    drag(Message(h, pair.client), pair.prior, SHORT, seeds=[3407], callback=exact[1])
    drag(Message(h, pair.client), pair.prior, SHORT.with_(**change), seeds=[3407], callback=seen[1])
    with pytest.raises(AssertionError, match="relative difference"):
        assert_same(seen[0], exact[0])


def test_a_batch_is_as_many_single_runs(pair):
    config = DragConfig(num_steps=2, recurrence=2)
    h = pair.sent(4)
    together = drag(Message(h, pair.client), pair.prior, config, seeds=5)
    for i in range(4):
        one = slice(i, i + 1)
        alone = drag(Message(h[one], pair.client), pair.prior, config, seeds=[5 + i])
        torch.testing.assert_close(together.images[one], alone.images, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.distance[one], alone.distance, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(together.trace["distance"][:, one], alone.trace["distance"], rtol=1e-9, atol=1e-12)
