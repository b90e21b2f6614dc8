"""The loop shared by the attacks that optimise: what happens to NaN, to Ctrl-C, to a checkpoint."""

import pytest
import torch
from torch import nn

from dragkit.attacks.descent import Pace
from dragkit.attacks.message import Message
from dragkit.attacks.rmle import RmleConfig, rmle
from dragkit.client import SplitClient

CONFIG = RmleConfig(iterations=12, lr=0.02, image_size=16)


@pytest.fixture(scope="module")
def client():
    torch.manual_seed(0)
    embed = nn.Conv2d(3, 64, 4, stride=4)
    return SplitClient(nn.Sequential(embed, nn.Flatten(2)), "0", image_size=16, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def h(client):
    return client(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))).double()


def test_nan_stops_one_image_and_says_when(client, h):
    calls = []

    def distance(a, b, mask):
        d = (a - b).square().mean((1, 2))
        calls.append(1)
        return torch.where(torch.arange(3) == 1, torch.nan, d) if len(calls) == 5 else d

    found = rmle(Message(h, client, distance=distance), CONFIG)
    assert found.failed_at == [None, 4, None]
    assert torch.isfinite(found.images).all() and torch.isnan(found.distance[1])
    whole = rmle(Message(h, client, distance=lambda a, b, m: (a - b).square().mean((1, 2))), CONFIG)
    torch.testing.assert_close(found.images[[0, 2]], whole.images[[0, 2]])


def test_ctrl_c_returns_the_best_so_far_and_resumes_exactly(client, h, tmp_path):
    file = tmp_path / "rmle.safetensors"
    calls = []

    def interrupt(state):
        calls.append(state.iteration)
        if len(calls) == 5:
            raise KeyboardInterrupt

    part = rmle(Message(h, client), CONFIG, callback=interrupt, checkpoint=file)
    assert part.interrupted and part.nfe == 5 and "interrupted" in repr(part)
    torch.testing.assert_close(part.distance, part.trace["distance"].min(0).values)
    rest = rmle(Message(h, client), CONFIG, checkpoint=file)
    torch.testing.assert_close(rest.images, rmle(Message(h, client), CONFIG).images, rtol=0, atol=0)
    assert rest.trace["distance"].shape == (12, 3)


def test_missing_tokens_do_not_count_and_masks_are_checked(client, h):
    mask = torch.ones(3, 16, dtype=torch.bool)  # of 4 x 4 places
    mask[:, 8:] = False
    other = h.clone()
    other[:, :, 2:] += 1
    seen = [rmle(Message(given, client, mask), CONFIG).images for given in (h, other)]
    torch.testing.assert_close(seen[0], seen[1])
    with pytest.raises(TypeError, match=r"mask is torch\.int64"):
        rmle(Message(h, client, mask.long()), CONFIG)
    with pytest.raises(ValueError, match=r"mask is \(3, 4\)"):
        rmle(Message(h, client, mask[:, :4]), CONFIG)
    mask[1] = False
    with pytest.raises(ValueError, match="no token for image 1"):
        rmle(Message(h, client, mask), CONFIG)


def test_a_checkpoint_of_other_settings_is_refused(client, h, tmp_path):
    file = tmp_path / "rmle.safetensors"
    rmle(Message(h, client), CONFIG, checkpoint=file)
    with pytest.raises(ValueError, match="another attack"):
        rmle(Message(h, client), CONFIG.with_(tv=0.1), checkpoint=file)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"iterations": 0}, "iterations is 0"), ({"lr": 0.0}, "lr is 0"), ({"clip": -1.0}, "clip is -1")],
)
def test_pace_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Pace(**{"iterations": 3, "lr": 0.1, **change})
