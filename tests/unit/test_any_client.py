"""Defences, replies and measures of somebody's own client and photos, on a machine without Imagenette."""

import pytest
import tiny
import torch
from torch import Tensor, nn

from dragkit.adaptive import replies
from dragkit.adaptive.reorder import fit_positions
from dragkit.adaptive.replies import hear
from dragkit.client import SplitClient
from dragkit.defenses import DEFENCES, Defence, defend, defend_images, make, shaped
from dragkit.defenses.public import FEWEST, public_tokens, spread
from dragkit.measures import utility
from dragkit.measures.embedding import ir_embedding
from dragkit.measures.identification import Gallery, identify
from dragkit.measures.probe import fit_probe
from dragkit.measures.readout import fit_readout

MEASURING = ("gaussian", "laplace", "dropout", "topk", "lowrank", "quantise", "shaped", "pac")
DISCO = [name for name in DEFENCES if name.startswith("disco")]


@pytest.fixture(autouse=True)
def without_imagenette(monkeypatch, tmp_path):
    monkeypatch.setenv("DRAGKIT_DATA", "/nonexistent")
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path))


def own_photos(n: int, seed: int = 0) -> Tensor:
    """Smooth coloured pictures, brighter on one side: position and content can both be told from a patch."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    ramp = torch.linspace(0, 1, 32)
    return (0.6 * nn.functional.interpolate(coarse, size=32, mode="bilinear") + 0.4 * ramp * ramp[:, None]).clamp(0, 1)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return own_photos(80)


@pytest.fixture(scope="module")
def vit() -> SplitClient:
    """A timm ViT: 16 patches and CLS, five classes."""
    with tiny.seeded():
        model = tiny.make_client("timm-vit")
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return SplitClient(model, "block:2", image_size=32)


@pytest.fixture(scope="module")
def convolution() -> SplitClient:
    """A plain module whose IR is maps, `(B, 6, 8, 8)`."""
    with tiny.seeded():
        body = nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.GELU())
        model = nn.Sequential(body, nn.Flatten(), nn.Linear(6 * 64, 5))
    return SplitClient(model, "0", image_size=32, name="plain")


@pytest.mark.parametrize("name", [name for name in DEFENCES if name not in DISCO])
def test_every_defence_of_an_own_vit(name, vit, photos):
    spec = "lowrank:4" if name == "lowrank" else name
    defence = make(spec, vit, photos)
    sent = defend_images(defence, vit, photos[:3], 0, queries=2)
    assert sent.shape == (2, 3, 17, 16) and sent.isfinite().all()
    with torch.no_grad():
        assert not torch.equal(sent[0], vit(photos[:3]))
        assert vit.server(defence.receive(sent[0])).shape == (3, 5)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "dropout", "topk", "quantise", "permute", "lowrank:2"])
def test_defences_of_maps(name, convolution, photos):
    defence = make(name, convolution, photos)
    with torch.no_grad():
        h = convolution(photos[:3])
        sent = defend(defence, h, 0)[0]
        assert sent.shape == h.shape and convolution.server(defence.receive(sent)).shape == (3, 5)


@pytest.mark.parametrize("name", DISCO)
def test_disco_says_why_an_own_client_cannot_have_it(name, vit, photos):
    with pytest.raises(ValueError, match="has no pruner at 'block:2'; DISCO needs a client that was trained with one"):
        make(name, vit, photos)


def test_constants_are_those_of_the_given_photos(vit, photos):
    with torch.no_grad():
        unit = spread(vit(photos).double())
    assert make("gaussian:0.5", vit, photos).std == pytest.approx(0.5 * unit, rel=1e-6)
    other = make("gaussian:0.5", vit, 0.3 * photos)
    assert abs(other.std / (0.5 * unit) - 1) > 1e-4
    torch.testing.assert_close(  # up to rounding, which depends on the batch
        public_tokens(vit, own_photos(130))[:80], public_tokens(vit, own_photos(130)[:80]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", MEASURING)
def test_without_photos_the_error_says_how_to_give_some(name, vit, photos):
    with pytest.raises(FileNotFoundError, match=r"imagenette2-160.*pass photos=, public photos \(n, 3, H, W\)"):
        make(name, vit)
    with pytest.raises(ValueError, match=f"photos holds {FEWEST - 1}; at least"):
        make(name, vit, photos[: FEWEST - 1])
    with pytest.raises(TypeError, match="photos"):
        make(name, vit, (255 * photos).to(torch.uint8))


def test_the_shape_of_noise_is_kept_for_the_photos_it_was_made_from(vit, photos, monkeypatch):
    first, other = make("shaped", vit, photos), make("shaped", vit, 0.3 * photos)
    assert not torch.equal(first.root, other.root)
    with pytest.raises(ValueError, match="photos holds 16; at least 17"):  # 16 features
        make("pac", vit, photos[:16])
    monkeypatch.setattr(shaped, "estimate", lambda *_: pytest.fail("the factors lie in the cache"))
    assert torch.equal(make("shaped", vit, photos).root, first.root)


# -- replies ---------------------------------------------------------------------------------------------------------


def test_shuffled_tokens_of_an_own_client_are_put_in_order(vit, monkeypatch):
    many, few = own_photos(400), own_photos(4, seed=1)
    positions = fit_positions(vit, many, steps=150)
    assert positions.card["n_train"] == 360 and positions.card["n_held_out"] == 40
    assert positions.card["client"] == vit.name and "fit_positions(client, photos" in positions.card["command"]
    monkeypatch.setattr(replies, "fit_positions", lambda client, photos: fit_positions(client, photos, steps=150))
    shuffle = make("shuffle", vit)
    with torch.no_grad():
        h = vit(few)
    messages = defend(shuffle, h, 0, queries=2)
    message, threat = hear("reorder", messages, shuffle, vit, many)
    assert message.client is vit and message.mask is None and threat.queries == 2
    assert message.measure(few).mean() < hear("", messages, shuffle, vit)[0].measure(few).mean() / 2
    placed, _ = hear("placed", messages, shuffle, vit, many)
    torch.testing.assert_close(placed.measure(few), torch.zeros(4), atol=0.01, rtol=0)


def test_messages_without_the_repetitions_are_refused(vit):
    h = vit(own_photos(2))
    with pytest.raises(ValueError, match=r"must be \(k, B, 17, \d+\)"):
        hear("", h, make("shuffle", vit), vit)
    assert len(hear("", h[None], make("shuffle", vit), vit)[0]) == 2


def test_classifiers_of_positions_are_kept_apart(vit, photos):
    small = {"n_train": 32, "n_held_out": 4, "steps": 2}
    first = fit_positions(vit, photos, **small)
    shifted = SplitClient(vit.model, "block:2", image_size=32, mean=(0.1, 0.1, 0.1))
    for other in (fit_positions(vit, 1 - photos, **small), fit_positions(shifted, photos, **small)):
        assert other.card["sha256"] != first.card["sha256"]
    assert fit_positions(vit, photos, **small).card == first.card
    with pytest.raises(ValueError, match="photos holds 33; at least 34"):
        fit_positions(vit, photos[:33])
    with pytest.raises(FileNotFoundError, match="pass photos="):
        fit_positions(vit)


# -- measures --------------------------------------------------------------------------------------------------------


def test_accuracy_is_about_the_given_photos_and_labels(vit, photos):
    with torch.no_grad():
        h = vit(photos)
        labels = vit.server(h).argmax(1)
    labels[::8] = (labels[::8] + 1) % 5
    plain = utility.per_photo_right(vit, photos, labels)
    assert plain.tolist() == [i % 8 != 0 for i in range(80)]
    assert utility.accuracy(vit, photos, labels).mean == pytest.approx(70 / 80)
    noise, heads = make("gaussian:2", vit, photos), make("heads:0.5", vit)
    assert isinstance(noise, Defence)
    noisy = utility.per_photo_right(vit, photos, labels, noise, seeds=7)
    assert utility.accuracy_drop(plain, noisy).mean == pytest.approx(float((plain.double() - noisy.double()).mean()))
    some = [5, 60, 7]
    assert torch.equal(
        utility.per_photo_right(vit, photos[some], labels[some], noise, seeds=[7 + i for i in some]), noisy[some]
    )
    assert torch.equal(utility.per_ir_right(vit, h, labels, noise, seeds=7, batch=9), noisy)
    assert utility.per_photo_right(vit, photos, labels, heads).shape == (80,)
    with pytest.raises(TypeError, match="StochasticHeads acts inside the client"):
        utility.per_ir_right(vit, h, labels, heads)
    with pytest.raises(ValueError, match="labels is"):
        utility.per_photo_right(vit, photos, labels[:3])
    with pytest.raises(ValueError, match="not scores of the 10 classes"):
        utility.per_photo_right(vit, photos, labels + 5)


def test_a_gallery_of_own_photos(vit, photos):
    doubled = torch.cat([photos[:40], photos[:1], photos[40:]])
    look = ir_embedding(vit)
    gallery = Gallery.build(doubled, torch.arange(81) % 5, 4, 60, embedding=look, threshold=1e-9)
    assert gallery.removed == [40] and gallery.indices[:41] == [*range(40), 41] and len(gallery.photos) == 60
    assert identify(photos[:4], gallery, look)["gallery"].top1.mean == 1
    with pytest.raises(ValueError, match="1 <= attacked <= size <= 81"):
        Gallery.build(doubled, torch.arange(81), 4, 90, embedding=look)
    with pytest.raises(ValueError, match="one per photo"):
        Gallery.build(doubled, torch.arange(80), 4, 60, embedding=look)


def test_a_probe_of_own_photos(vit, photos):
    pytest.importorskip("sklearn", reason="not installed: scikit-learn")
    dark = torch.arange(80) % 2
    pictures = photos * (1 - 0.6 * dark)[:, None, None, None]
    look = ir_embedding(vit)
    probe = fit_probe(look, pictures[:60], dark[:60], pictures[60:], dark[60:])
    right = (probe(pictures[60:]).argmax(1) == dark[60:]).double().mean().item()
    assert probe.card["measured"]["top1"]["value"] == right > 0.8 and probe.card["n_train"] == 60
    for wrong, message in (
        ((pictures[:10], dark[:10]), "photos holds 10"),
        ((pictures[:60], dark[:50]), "a label each"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_probe(look, *wrong, pictures[60:], dark[60:])
    for labels, message in ((torch.arange(50), "no class with five"), (2 * dark[:50], "without a gap")):
        with pytest.raises(ValueError, match=message):
            fit_probe(look, pictures[:50], labels, pictures[60:], dark[60:])


def test_a_readout_of_own_photos(vit, photos):
    shown = fit_readout(vit, photos)(vit, vit(photos[:2]))
    assert shown.shape == (2, 3, 32, 32)
    assert (shown - photos[:2]).square().mean() < (photos.mean(0) - photos[:2]).square().mean() / 4
