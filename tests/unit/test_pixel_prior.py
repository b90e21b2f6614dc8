"""The pixel-space prior: trained, exported, loaded in every layout, and DRAG runs with it."""

import shutil

import pytest
import torch
import torch.nn.functional as nnf
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from dragkit import methods, zoo
from dragkit.attacks.drag import drag
from dragkit.attacks.message import Message
from dragkit.config import DragConfig
from dragkit.priors.diffusion import PixelPrior
from dragkit.zoo import cards
from draglab.cases import Case
from draglab.training import export, pixel_prior
from draglab.training.loop import TrainConfig
from draglab.training.pixel_prior import PixelRecipe, PixelTask

TINY = PixelRecipe(channels=(16, 16))
CPU = torch.device("cpu")
SMALL = TrainConfig(steps=2, batch=4, lr=1e-3, warmup=1, device="cpu")


def prior(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"in_channels": 3, "out_channels": 3, **changes}
        blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        unet = UNet2DModel(
            sample_size=64, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, **blocks, **options
        )
    return PixelPrior(unet, pixel_prior.noise_schedule())


@pytest.fixture
def photos(monkeypatch):
    """A stand-in for Imagenette: smooth random photos."""
    coarse = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def fake(subset, size=64):
        big = nnf.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
        return (big * 255).to(torch.uint8), torch.arange(40) % 10

    for module in (pixel_prior, export):
        monkeypatch.setattr(module, "imagenette", fake)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty zoo and cache."""
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path / "cache"))
    client = zoo.load_client(at="block:6")
    monkeypatch.setattr(cards, "FOLDER", tmp_path / "zoo")
    zoo.verify.cache_clear()
    yield client
    zoo.verify.cache_clear()


# -- the prior


def test_images_are_their_own_latents():
    p, x = prior(), torch.rand(2, 3, 64, 64)
    assert p.latent_shape == (3, 64, 64) and p.encode(x).min() < -0.9
    torch.testing.assert_close(p.decode(p.encode(x)), x)
    for wrong in (p.encode, p.decode, lambda z: p.predict_noise(z, 3)):
        with pytest.raises(ValueError, match=r"prior 'pixel prior' takes \(B, 3, 64, 64\)"):
            wrong(torch.rand(2, 3, 32, 32))


def test_the_schedule_is_the_published_one_and_reaches_pure_noise():
    alpha_bar = prior().alpha_bar
    torch.testing.assert_close(
        alpha_bar, DDPMScheduler().alphas_cumprod.double()
    )  # diffusers' defaults are the paper's
    assert alpha_bar[-1] < 1e-4


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("flat", [True, False])
def test_loads_in_both_layouts_with_either_scheduler(tmp_path, scheduler, flat):
    p = prior()
    p.unet.save_pretrained(tmp_path if flat else tmp_path / "unet")
    scheduler(beta_end=0.015).save_pretrained(tmp_path if flat else tmp_path / "scheduler")
    loaded = PixelPrior.from_pretrained(tmp_path)
    z = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded.predict_noise(z, 7), p.predict_noise(z, 7))
    torch.testing.assert_close(loaded.alpha_bar, scheduler(beta_end=0.015).alphas_cumprod.double())
    assert not any(w.requires_grad for w in loaded.unet.parameters()) and loaded.name == tmp_path.name


def test_what_cannot_be_a_pixel_prior_is_refused(tmp_path, tiny_sd15):
    for changes, said in (
        ({"in_channels": 4}, "takes 4 channels"),
        ({"out_channels": 6}, "answers with 6 channels"),
        ({"num_class_embeds": 5}, "wants class labels"),
    ):
        with pytest.raises(ValueError, match=said):
            prior(**changes)
    unet = prior().unet
    with pytest.raises(ValueError, match="prediction_type is 'v_prediction'"):
        PixelPrior(unet, DDIMScheduler(prediction_type="v_prediction"))
    with pytest.raises(ValueError, match="is a UNet2DConditionModel; a pixel prior needs a UNet2DModel"):
        PixelPrior.from_pretrained(tiny_sd15)
    with pytest.raises(OSError, match=r"config\.json"):
        PixelPrior.from_pretrained(tmp_path)
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(OSError, match=r"scheduler_config\.json"):
        PixelPrior.from_pretrained(tmp_path)


def test_drag_follows_the_gradient_in_pixels():
    client, p = zoo.load_client(at="block:6"), prior()
    h = client(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    guided, free = (
        drag(
            Message(h, client), p, DragConfig(num_steps=6, recurrence=1, guidance_rate=rate, betas=(0.5, 0.9)), seeds=0
        )
        for rate in (1.0, 0.0)
    )
    assert guided.images.shape == (2, 3, 64, 64)
    assert (guided.distance < free.distance).all()


# -- its training


def test_the_recipe_refuses_nonsense():
    for changes, said in (
        ({"channels": (16, 20)}, "multiple of 16"),
        ({"channels": (16,)}, "2 to 5 widths"),
        ({"layers": 0}, "layers is 0"),
        ({"crop": 0.0}, "crop is 0"),
    ):
        with pytest.raises(ValueError, match=said):
            PixelRecipe(**changes)


def test_the_default_fits_eight_mebibytes_and_attends_at_8x8_alone():
    unet = pixel_prior.build(PixelRecipe())
    assert sum(w.numel() for w in unet.parameters()) * 2 <= 8 * 2**20
    sides = [64 >> i for i, kind in enumerate(unet.config.down_block_types) if kind.startswith("Attn")]
    assert sides == [8] and unet.config.up_block_types[0] == "AttnUpBlock2D"


@pytest.mark.parametrize("crop", [0.8, 1.0])
def test_batches_are_views_in_the_networks_range_that_depend_on_the_step(photos, crop):
    task = PixelTask(PixelRecipe(channels=(16, 16), crop=crop), 40, 0, CPU)
    x, again, other = (task._batch(0, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert x.shape == (40, 3, 64, 64) and -1 <= x.min() < -0.5 and 0.5 < x.max() <= 1
    torch.testing.assert_close(x, again, rtol=0, atol=0)
    assert (x - other).abs().max() > 0.1


def test_a_predictor_that_answers_with_the_noise_has_no_loss(photos):
    """The clean image is grey, so that the noise follows from the noisy image and the timestep."""
    task = PixelTask(TINY, 4, 0, CPU)
    assert task.evaluate(task.model)["noise_loss"] == pytest.approx(1, abs=0.5)  # an untrained one knows nothing
    task.val = torch.zeros_like(task.val)

    class Exact(torch.nn.Module):
        def forward(self, x, t):
            noise = x / (1 - task.alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
            return type("Output", (), {"sample": noise})

    assert task.evaluate(Exact())["noise_loss"] < 1e-6


def test_trained_exported_shipped_and_then_it_attacks(photos, home, tmp_path):
    with pytest.raises(ValueError, match=r"no pixel prior is called 'pixel64'.*dragkit train pixel-prior"):
        zoo.load_pixel_prior()
    out = pixel_prior.train_pixel_prior(SMALL, TINY)
    exported = zoo.load_pixel_prior()  # found on this machine, though it is not shipped
    assert exported.unet.dtype == torch.float32 and exported.name == "pixel64"
    assert PixelPrior.from_pretrained(out).name == "export"
    export.ship(pixel_prior.RUN)
    assert zoo.names() == ["pixel64/unet"]
    card = zoo.card("pixel64/unet")
    assert card["measured"]["noise_loss"]["n"] == 40 and card["steps"] == 2 and "pixel-prior" in card["command"]
    shutil.rmtree(out)
    shipped, z = zoo.load_pixel_prior(), torch.randn(2, 3, 64, 64)
    assert PixelPrior.from_pretrained(tmp_path / "zoo" / "pixel64").name == shipped.name == "pixel64"
    torch.testing.assert_close(shipped.predict_noise(z, 500), exported.predict_noise(z, 500))
    torch.testing.assert_close(shipped.alpha_bar, pixel_prior.noise_schedule().alphas_cumprod.double())

    case = Case(methods.METHODS["drag-pixel"].budget(3), "block:6", method="drag-pixel")
    known = case.knowledge()
    h = home(torch.rand(2, 3, 64, 64))
    found = methods.METHODS["drag-pixel"].run(Message(h, home), known, methods.Setting(case.config, 0))
    assert found.images.shape == (2, 3, 64, 64) and found.failed_at == [None, None]
    assert known.names(("pixels",)) == ["pixel64/unet"] and known.pixels is known.pixels


def test_settings_of_drag_still_name_drag():
    assert methods.method_of(DragConfig.ci()) == "drag"
    assert Case(DragConfig.ci(), "block:6", method="drag-pixel").name == "drag-pixel"


def test_the_two_kinds_of_prior_are_told_apart_by_name():
    with pytest.raises(ValueError, match=r"there is imagenette64; .* load_pixel_prior"):
        zoo.load_prior("pixel64")
    with pytest.raises(ValueError, match=r"there is imagenette64$"):
        zoo.load_prior("nonesuch")
