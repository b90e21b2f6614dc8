"""The training loop resumes exactly, and the recipes do what they say."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dragkit.data import CLASSES
from dragkit.devices import pick_device
from draglab.training import augment, autoencoder, classifier, export, loop, prior
from draglab.training.loop import Task, TrainConfig, batch_indices, fit
from draglab.training.muon import FlatMuon, muon_and_adamw


class Line(Task):
    """Fit y = 3x + 1 with a two-layer network; `stop_at` raises KeyboardInterrupt there, like Ctrl-C."""

    def __init__(self, stop_at=None, poison_at=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1))
        self.stop_at, self.poison_at = stop_at, poison_at

    def loss(self, step, generator):
        if step == self.stop_at:
            raise KeyboardInterrupt
        x = torch.randn(32, 1, generator=generator)
        loss = (self.model(x) - 3 * x - 1).square().mean()
        return (loss * torch.nan if step == self.poison_at else loss), {"twice": 2 * loss.item()}

    def evaluate(self, model):
        x = torch.linspace(-1, 1, 9)[:, None]
        with torch.no_grad():
            return {"error": (model(x) - 3 * x - 1).abs().max().item()}

    def samples(self, model):
        return torch.rand(3, 8, 8)


CONFIG = TrainConfig(steps=120, batch=32, lr=0.05, warmup=5, ema=0.9, device="cpu")


def test_training_learns_and_leaves_a_readable_folder(tmp_path):
    before = Line().evaluate(Line().model)["error"]
    task = Line()
    model = fit(task, CONFIG, tmp_path, show=False)
    assert task.evaluate(model)["error"] < before / 5
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint.safetensors",
        "config.json",
        "log.csv",
        "evaluations.csv",
        "curve.png",
        "samples.png",
    }
    assert loop.saved_state(tmp_path)["step"] == 120
    assert not list(tmp_path.rglob("*.p*kl")) and not list(tmp_path.rglob("*.pt"))


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = fit(Line(), CONFIG, tmp_path / "whole", show=False)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(stop_at=47), CONFIG, tmp_path / "cut", show=False)
    resumed = fit(Line(), CONFIG, tmp_path / "cut", show=False)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_save_that_is_killed_half_way_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(Line(stop_at=47), CONFIG, tmp_path, show=False)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), CONFIG, tmp_path, show=False)
    task = Line()
    assert loop._restore(tmp_path, task.model, torch.optim.swa_utils.AveragedModel(task.model), [])[0] == 47


def test_nan_loss_stops_the_run_with_its_step(tmp_path):
    with pytest.raises(FloatingPointError, match="step 9; lower --lr"):
        fit(Line(poison_at=9), CONFIG, tmp_path, show=False)


def test_learning_rate_warms_up_stays_and_falls_to_zero():
    config = TrainConfig(steps=1000, batch=1, lr=1.0, warmup=100, decay=0.2)
    factors = [config.lr_factor(s, config.progress(s, 0)) for s in (0, 99, 500, 799, 900, 999)]
    assert factors == pytest.approx([0.01, 1, 1, 1, 0.5, 0.005])


def test_config_refuses_nonsense():
    with pytest.raises(ValueError, match="steps is 0"):
        TrainConfig(steps=0, batch=1, lr=1.0)
    with pytest.raises(ValueError, match="decay is 0"):
        TrainConfig(steps=1, batch=1, lr=1.0, decay=0)


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 1.5},
        {"batch": 0},
        {"warmup": -1},
        {"seed": -1},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"ema": 5.0},
        {"ema": 1.0},
        {"clip": -1.0},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
        {"save_every": 0.0},
        {"minutes": 0.0},
        {"decay": float("nan")},
    ],
)
def test_config_names_the_field_that_cannot_work(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"^{name} is "):
        TrainConfig(**{"steps": 1, "batch": 1, "lr": 1.0} | given)


def test_a_batch_larger_than_the_data_is_refused():
    assert len(batch_indices(10, 10, 3, seed=0)) == 10
    with pytest.raises(ValueError, match="batch is 11; there are only 10 photos"):
        batch_indices(10, 11, 0, seed=0)


def test_devices_are_checked_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("cpu").type == pick_device("auto").type == "cpu"
    for wrong, message in (("gpu", "it must be auto, cpu"), ("cuda", "does not have"), ("cuda:x", "it must be auto")):
        with pytest.raises(ValueError, match=message):
            pick_device(wrong)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto").type == "cuda" and pick_device("cuda:1").index == 1
    with pytest.raises(ValueError, match="cuda:2"):
        pick_device("cuda:2")


def test_every_epoch_sees_every_photo_once_in_an_order_of_its_own():
    epochs = [torch.cat([batch_indices(100, 10, e * 10 + i, seed=3) for i in range(10)]) for e in range(2)]
    assert all(sorted(e.tolist()) == list(range(100)) for e in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    torch.testing.assert_close(batch_indices(100, 10, 7, seed=3), epochs[0][70:80])


def test_flat_muon_is_muon_on_the_matrix_view():
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = nn.Parameter(filters.detach().clone().flatten(1))
    ours = FlatMuon([filters], lr=0.1, weight_decay=0.01)
    theirs = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        filters.grad = torch.randn_like(filters)
        matrix.grad = filters.grad.flatten(1).clone()
        ours.step()
        theirs.step()
        ours.zero_grad()
        assert filters.grad is None
    torch.testing.assert_close(filters.flatten(1), matrix)


def test_muon_takes_inner_weights_and_adamw_the_rest():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 3))
    muon, adamw = muon_and_adamw(model, 1e-3, 0.0, outside=("0", "3"))
    assert [tuple(p.shape) for g in muon.param_groups for p in g["params"]] == [(8, 72)]
    assert sum(len(g["params"]) for g in adamw.param_groups) == 7


@pytest.fixture
def photos(monkeypatch):
    """A stand-in for Imagenette: smooth random photos."""
    torch.manual_seed(0)
    coarse = torch.rand(60, 3, 4, 4)

    def fake(subset, size=64):
        big = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
        return (big * 255).to(torch.uint8), torch.arange(60) % 10

    for module in (autoencoder, classifier, prior, export):
        monkeypatch.setattr(module, "imagenette", fake, raising=False)


SMALL = TrainConfig(steps=3, batch=4, lr=1e-3, warmup=1, device="cpu")


def test_three_commands_make_three_models_that_load_again(photos, tmp_path, monkeypatch):
    from dragkit import zoo
    from dragkit.client import SplitClient
    from dragkit.priors.diffusion import LatentPrior
    from dragkit.zoo import cards

    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cards, "FOLDER", tmp_path / "zoo")
    zoo.verify.cache_clear()
    autoencoder.train_autoencoder(SMALL, autoencoder.AutoencoderRecipe(channels=(8, 8, 8, 8), perceptual=0))
    prior.train_prior(SMALL, prior.PriorRecipe(channels=(32, 32), layers=1))
    classifier.train_classifier(SMALL, classifier.ClassifierRecipe(width=32, blocks=2))
    unshipped = zoo.load_prior()  # its parts lie in two folders
    for run in ("imagenette64-vae", "imagenette64-unet", "classifier"):
        export.ship(run)
    assert zoo.names() == ["imagenette64/unet", "imagenette64/vae", "vit-imagenette64"]
    loaded = LatentPrior.from_pretrained(tmp_path / "zoo" / "imagenette64")
    latents = loaded.encode(photo := torch.rand(2, 3, 64, 64))
    assert torch.equal(unshipped.encode(photo), latents) and torch.equal(unshipped.alpha_bar, loaded.alpha_bar)
    assert latents.shape == (2, 16, 8, 8)
    assert loaded.encode(autoencoder.imagenette("train")[0] / 255).std().item() == pytest.approx(1, abs=0.1)
    card = zoo.card("vit-imagenette64")
    assert card["measured"]["top1"]["n"] == 60 and card["steps"] == 3 and card["command"].startswith("dragkit train")
    client = SplitClient.from_pretrained(zoo.verify("vit-imagenette64"), "block:1")
    assert client.h_shape == (65, 32) and client(torch.rand(1, 3, 64, 64)).isfinite().all()
    (tmp_path / "zoo" / "vit-imagenette64" / "model.safetensors").write_bytes(b"version https://git-lfs")
    zoo.verify.cache_clear()
    with pytest.raises(ValueError, match="is not the file its card describes"):
        zoo.verify("vit-imagenette64")
    zoo.verify.cache_clear()


def test_the_prior_learns_latents_in_the_scale_the_autoencoder_declares(photos, tmp_path):
    vae = autoencoder.build(autoencoder.AutoencoderRecipe(channels=(8, 8, 8, 8)))
    vae.register_to_config(scaling_factor=0.5)
    vae.save_pretrained(tmp_path / "vae")
    task = prior.PriorTask(prior.PriorRecipe(channels=(32, 32), layers=1), tmp_path / "vae", 4, 0, torch.device("cpu"))
    images = autoencoder.imagenette("train")[0]
    torch.testing.assert_close(task.latents[:60], 0.5 * autoencoder.encode_all(vae.eval(), images, torch.device("cpu")))
    assert len(task.latents) == 120  # every photo and its mirror image
    assert task.evaluate(task.model)["noise_loss"] == pytest.approx(1, abs=0.5)  # an untrained predictor knows nothing


def test_augmentation_keeps_range_and_varies_per_photo():
    x = torch.rand(1, 3, 80, 80).expand(4, -1, -1, -1)
    y = augment.random_crop(x, 0.35, torch.Generator().manual_seed(0))
    assert y.shape == (4, 3, 64, 64) and y.min() >= 0 and y.max() <= 1
    assert (y[0] - y[1]).abs().max() > 0.05


def test_a_labelled_batch_is_cropped_jittered_and_mixed_as_its_recipe_says():
    photos = torch.randint(0, 256, (6, 3, 80, 80), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels, index = torch.arange(6), torch.tensor([4, 1, 2])

    def batch(**changes):
        recipe = classifier.ClassifierRecipe(**{"crop": 0.5, "jitter": 0.3, "mix": 0.0} | changes)
        return augment.labelled_batch(photos, labels, index, recipe, 10, torch.Generator().manual_seed(1))

    x, target = batch()
    assert x.shape == (3, 3, 64, 64) and target.argmax(1).tolist() == [4, 1, 2] and target.shape == (3, 10)
    assert not torch.equal(batch(crop=0.9)[0], x) and not torch.equal(batch(jitter=0.0)[0], x)
    assert all(not torch.equal(a, b) for a, b in zip(batch(mix=1.0), (x, target), strict=True))


def test_augmentation_without_freedom_is_a_resize():
    x = torch.linspace(0, 1, 80).expand(1, 3, 80, 80)
    y = augment.colour_jitter(
        augment.random_crop(x, 1.0, torch.Generator().manual_seed(1), aspect=1.0), 0.0, torch.Generator()
    )
    y = y if y[0, 0, 0, 0] < y[0, 0, 0, -1] else y.flip(-1)
    assert (y - torch.linspace(0, 1, 64)).abs().max() < 0.02


def test_mixing_keeps_one_unit_of_target():
    x, target = torch.rand(6, 3, 16, 16), torch.eye(len(CLASSES))[:6]
    changed = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        mixed, soft = augment.mix(x, target, 1.0, generator)
        assert torch.allclose(soft.sum(1), torch.ones(6)) and mixed.shape == x.shape
        changed += int(not torch.equal(mixed, x))
    assert changed >= 10
    assert augment.mix(x, target, 0.0, torch.Generator())[0] is x
