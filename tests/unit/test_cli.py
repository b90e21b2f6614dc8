"""The command line, as a person meets it: real photo in, picture out, one-line errors."""

import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from dragkit import data
from dragkit.config import DragConfig
from dragkit.images import load_image, save_image
from draglab import cli


@pytest.fixture
def photo(tmp_path):
    return save_image(data.demo_images(96)["astronaut"], tmp_path / "photo.png")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(DragConfig, "ci", classmethod(lambda cls: cls(num_steps=2, recurrence=2)))


def test_reconstruct_writes_the_picture_and_prints_threat_model_and_metrics(photo, tmp_path):
    out = tmp_path / "sub" / "out.png"
    result = CliRunner().invoke(
        cli.app, ["reconstruct", str(photo), "--layer", "3", "--budget", "ci", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert load_image(out).shape[0] == 3
    for expected in ("honest-but-curious server", "block:3", "MS-SSIM", "decoder ceiling"):
        assert expected in result.output.replace("\n", " ")


def test_a_defended_photo_prints_what_the_attacker_knows_and_what_the_server_answers(photo, tmp_path):
    shared = ["reconstruct", str(photo), "--layer", "3", "--budget", "ci", "--out", str(tmp_path / "out.png")]
    result = CliRunner().invoke(cli.app, [*shared, "--defence", "drop:0.5", "--adaptive", "mask", "--queries", "2"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for expected in ("defence drop:0.5", "the server's answer:", "the defence; sees 2 IRs of the same photo"):
        assert expected in said
    unaware = CliRunner().invoke(cli.app, [*shared, "--defence", "shuffle"])
    assert unaware.exit_code == 0, unaware.output
    assert "(unchanged)" in unaware.output and "the defence; sees" not in " ".join(unaware.output.split())


def test_info_lists_what_is_sent_and_where_to_cut():
    result = CliRunner().invoke(cli.app, ["info", "--layer", "2"])
    assert result.exit_code == 0, result.output
    assert "vit.layers.11" in result.output.replace("\n", "") or "layers" in result.output


def test_models_shows_each_card():
    result = CliRunner().invoke(cli.app, ["models"])
    assert result.exit_code == 0
    assert "imagenette64/vae" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruct", "missing.jpg"], "missing.jpg"),
        (["info", "--layer", "40"], "12"),
        (["info", "--layer", "vit.layer.3"], "vit.layers.3"),
        (["measure", "everything"], "overfit"),
        (["reconstruct", "missing.jpg", "--defence", "magic"], "known ones are"),
        (["reconstruct", "missing.jpg", "--adaptive", "mask"], "no --defence to reply to"),
        (["train", "autoencoder", "--channels", "a,b"], "numbers with commas"),
    ],
)
def test_errors_are_one_line_a_person_can_act_on(arguments, message):
    """In a process of its own, as a shell would run it: no traceback, exit status 2."""
    done = subprocess.run(
        [sys.executable, "-m", "draglab.cli", *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stdout.startswith("dragkit:")
    assert message in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_measure_passes_only_what_was_given(monkeypatch):
    from draglab.studies import first_checks

    seen = {}
    monkeypatch.setattr(first_checks, "deep", lambda **given: seen.update(given) or "out.json")
    result = CliRunner().invoke(cli.app, ["measure", "deep", "--n", "4", "--at", "block:10"])
    assert result.exit_code == 0, result.output
    assert seen == {"n": 4, "at": "block:10"}


def test_train_command_passes_its_options(monkeypatch, tmp_path):
    from draglab.training import autoencoder

    seen = []
    monkeypatch.setattr(
        autoencoder, "train_autoencoder", lambda config, recipe, name: seen.append((config, recipe, name)) or tmp_path
    )
    result = CliRunner().invoke(
        cli.app,
        ["train", "autoencoder", "--steps", "7", "--channels", "8,8,8,8", "--device", "cpu", "--name", "coarse64"],
    )
    assert result.exit_code == 0, result.output
    config, recipe, name = seen[0]
    assert config.steps == 7 and recipe.channels == (8, 8, 8, 8) and name == "coarse64"
    assert torch.device(config.device).type == "cpu"


def test_train_inverse_and_server_take_a_defence(monkeypatch, tmp_path):
    from draglab.training import inverse, server

    seen = []
    for module, name in ((inverse, "train_inverse"), (server, "train_server")):
        monkeypatch.setattr(module, name, lambda *given: seen.append(given) or tmp_path)
    options = ["--split", "block:6", "--defence", "drop:0.5", "--steps", "7", "--device", "cpu"]
    for arguments in (["inverse"], ["inverse", "--start", "none"], ["server"]):
        result = CliRunner().invoke(cli.app, ["train", *arguments, *options])
        assert result.exit_code == 0, result.output
    assert all(given[2:] == ("vit-imagenette64", "block:6", "drop:0.5") and given[0].steps == 7 for given in seen)
    assert [given[1].start for given in seen[:2]] == ["inverse/vit-imagenette64/block-6", ""]
