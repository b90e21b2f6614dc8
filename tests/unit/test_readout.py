"""A linear readout shows all of an invertible linear client and nothing of one that sends nothing."""

import pytest
import torch
from torch import nn

from dragkit.client import SplitClient
from dragkit.measures import intervals, metrics
from dragkit.measures.readout import fit_readout
from draglab import linear_readout


def _client(outputs: int) -> SplitClient:
    torch.manual_seed(0)
    embed = nn.Conv2d(3, outputs, 8, stride=8)
    model = nn.Sequential(embed, nn.Flatten(2), _Tokens())
    return SplitClient(model, "2", image_size=64, mean=(0, 0, 0), std=(1, 1, 1), layout="BND", prefix_tokens=0)


class _Tokens(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


@pytest.fixture(scope="module")
def photos():
    coarse = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, size=64, mode="bilinear").clamp(0, 1)


def test_wide_tokens_show_the_photo_and_narrow_ones_less(photos):
    scores = []
    for width in (200, 2):
        client = _client(width)
        shown = fit_readout(client, photos[:50], ridge=1e-8)(client, client(photos[50:]))
        assert shown.shape == (10, 3, 64, 64)
        scores.append(metrics.psnr(shown, photos[50:]).mean().item())
    assert scores[0] > 35 > scores[1]


def test_the_deepest_readable_block_is_the_first_from_the_end(monkeypatch):
    told = {12: 0.3, 11: 0.55, 10: 0.61, 9: 0.9}
    asked = []

    def readable(name, at):
        asked.append(at)
        return intervals.Interval(told[int(at[6:])], 0.0, 1.0)

    monkeypatch.setattr(linear_readout, "readable", readable)
    at, found = linear_readout.deepest_readable("any")
    assert at == "block:10" and asked == ["block:12", "block:11", "block:10"] and list(found) == asked


def test_tokens_without_a_grid_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(2), _Tokens())
    client = SplitClient(model, "2", image_size=(64, 32), layout="BND", prefix_tokens=0)
    with pytest.raises(ValueError, match="square grid"):
        fit_readout(client, torch.rand(4, 3, 64, 64))
