"""The command line, as a person meets it: real photo in, picture out, one-line errors."""

import functools
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from dragkit import data, zoo
from dragkit.cli import modern
from dragkit.images import load_image, save_image
from draglab import cli, options
from draglab.catalogue import MEASUREMENTS, SWEEPS, TRAININGS


@pytest.fixture
def photo(tmp_path):
    return save_image(data.demo_images(96)["astronaut"], tmp_path / "photo.png")


def test_reconstruct_writes_the_picture_and_prints_threat_model_and_metrics(photo, tmp_path):
    out = tmp_path / "sub" / "out.png"
    result = CliRunner().invoke(cli.app, ["reconstruct", str(photo), "--at", "3", "--turns", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert load_image(out).shape[0] == 3
    for expected in ("honest-but-curious server", "block:3", "MS-SSIM", "decoder ceiling"):
        assert expected in result.output.replace("\n", " ")


def test_a_defended_photo_prints_what_the_attacker_knows_and_what_the_server_answers(photo, tmp_path):
    shared = ["reconstruct", str(photo), "--at", "3", "--turns", "2", "--out", str(tmp_path / "out.png")]
    result = CliRunner().invoke(cli.app, [*shared, "--defence", "drop:0.5", "--adaptive", "mask", "--queries", "2"])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    for expected in ("defence drop:0.5", "the server's answer:", "the defence; sees 2 IRs of the same photo"):
        assert expected in said
    unaware = CliRunner().invoke(cli.app, [*shared, "--defence", "shuffle"])
    assert unaware.exit_code == 0, unaware.output
    assert "(unchanged)" in unaware.output and "the defence; sees" not in " ".join(unaware.output.split())


def test_several_photos_are_one_batch_with_a_row_and_figures_each(photo, tmp_path):
    save_image(data.demo_images(96)["coffee"], tmp_path / "second [bold].png")
    told = ["--json", str(tmp_path / "out" / "told.json"), "--out", str(tmp_path / "out" / "out.png")]
    result = CliRunner().invoke(cli.app, ["reconstruct", str(tmp_path), "--at=3", "--turns", "2", *told])
    assert result.exit_code == 0, result.output
    assert "mean" in result.output and "second [bold].png" in result.output
    record = json.loads((tmp_path / "out" / "told.json").read_text())
    assert [Path(row["photo"]).name for row in record["photos"]] == ["photo.png", "second [bold].png"]
    scores = [row["psnr"] for row in record["photos"]]
    assert record["mean"]["psnr"] == pytest.approx(sum(scores) / 2) and record["config"]["num_steps"] == 2
    assert load_image(tmp_path / "out" / "out.png").shape == (3, 518, 776)  # two rows of three, 256 px each, with gaps


@pytest.mark.parametrize("method", ["inverse", "rmle", "lm", "glass", "glass++", "drag++"])
def test_every_method_reconstructs(method, photo, tmp_path):
    length = [] if method == "inverse" else ["--turns", "8"]
    files = ["--out", str(tmp_path / "out.png"), "--json", str(tmp_path / "out.json")]
    result = CliRunner().invoke(cli.app, ["reconstruct", str(photo), "--method", method, *length, *files])
    assert result.exit_code == 0, result.output
    trained = method in ("inverse", "glass++", "drag++")
    assert ("public photos" in json.loads((tmp_path / "out.json").read_text())["threat"]) == trained
    assert "MS-SSIM" in result.output and (tmp_path / "out.png").exists()


def test_an_attack_in_pixels_that_is_interrupted_shows_its_best_and_goes_on(photo, tmp_path, monkeypatch):
    """SIGTERM, as a job scheduler sends it; the second call begins where the first one was stopped."""
    from dragkit import reconstruct as work

    shared = [
        "reconstruct",
        str(photo),
        "--prior",
        "pixel64",
        "--at",
        "0",
        "--turns",
        "4",
        "--out",
        str(tmp_path / "o.png"),
    ]
    shared += ["--checkpoint", str(tmp_path / "saved")]
    seen = []

    class Stop(work.Ticker):
        def __call__(self, state):
            seen.append(state.iteration)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(work, "Ticker", Stop)
    first = CliRunner().invoke(cli.app, shared)
    assert first.exit_code == 130, first.output
    assert "interrupted" in first.output and (tmp_path / "o.png").exists()
    before = signal.getsignal(signal.SIGTERM)
    second = CliRunner().invoke(cli.app, shared)
    assert second.exit_code == 0 and "interrupted" not in second.output
    assert seen[2] in (2, 3) and seen[-1] == 4 and before is signal.SIG_DFL


def test_attackers_use_the_client_that_their_reply_gives_them(photo, tmp_path, monkeypatch):
    """The reply `instances` attacks random instances of the client, not the client itself."""
    from dragkit import methods
    from dragkit.defenses.stochastic import ExpectedClient

    seen = []
    run = methods.METHODS["drag"].run

    def watched(message, known, setting):
        seen.append(message.client)
        return run(message, known, setting)

    monkeypatch.setitem(methods.METHODS, "drag", replace(methods.METHODS["drag"], run=watched))
    arguments = ["reconstruct", str(photo), "--turns", "1", "--at", "3", "--out", str(tmp_path / "out.png")]
    arguments += ["--defence", "heads:0.25", "--adaptive", "instances", "--queries", "2"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert isinstance(seen[0], ExpectedClient)


def test_info_lists_what_is_sent_and_where_to_cut():
    result = CliRunner().invoke(cli.app, ["info", "--at", "2"])
    assert result.exit_code == 0, result.output
    assert "vit.layers.11" in result.output.replace("\n", "") or "layers" in result.output


def test_models_shows_each_card():
    result = CliRunner().invoke(cli.app, ["models"])
    assert result.exit_code == 0
    assert all(name in result.output for name in zoo.names())  # whole, whatever the terminal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reconstruct", "missing.jpg"], "missing.jpg"),
        (["info", "--layer", "40"], "12"),
        (["info", "--at", "vit.layer.3"], "vit.layers.3"),
        (["measure", "everything"], "there is no measurement 'everything'; there are models, noise, overfit"),
        (["sweep", "x"], "there is no sweep 'x'; there are search, baselines"),
        (["train", "x"], "there is no training 'x'; there are autoencoder"),
        (["reconstruct", "missing.jpg", "--defence", "magic"], "known ones are"),
        (["reconstruct", "missing.jpg", "--adaptive", "mask"], "no --defence to reply to"),
        (["reconstruct", "missing.jpg", "--device", "cuda:77"], "device is 'cuda:77'"),
        (["reconstruct", "missing.jpg", "--turns", "0"], "turns is 0"),
        (["train", "autoencoder", "--channels", "a,b"], "channels is 'a,b'; it must be numbers with commas between"),
        (["train", "nopeek", "--lr", "-1"], "lr is -1"),
    ],
)
def test_errors_are_one_line_a_person_can_act_on(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dragkit", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().out
    assert end.value.code == 2 and said.startswith("dragkit:") and message in said and said.count("\n") == 1


def test_an_error_in_a_shell_has_no_traceback():
    arguments = [sys.executable, "-m", "draglab.cli", "reconstruct", "missing.jpg"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (2, "dragkit: image file not found: missing.jpg\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "picture.gif"], "it must end in .png"),
        (["--out", "."], "it must end in .png"),
        (["--out", "PHOTO"], "which is a photo"),
        (["--json", "FOLDER"], "which is a folder"),
        (["--json", "PHOTO/x.json"], "nothing can be written"),
        (["--json", "same.png", "--out", "same.png"], "another file of this run"),
        (["--method", "inverse", "--checkpoint", "x"], "answers in one pass"),
        (["--method", "inverse", "--at", "vit.layers.1.mlp"], "no inverse network is shipped"),
        (["--method", "glass++", "--client", "focus-vit-s14"], "train gan-encoder"),
    ],
)
def test_reconstruct_refuses_before_any_model_is_loaded(options, message, photo, tmp_path, monkeypatch):
    from dragkit import reconstruct as work

    def loaded(*given, **more):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(work, "open_client", loaded)
    said = [o.replace("PHOTO", str(photo)).replace("FOLDER", str(tmp_path)) for o in options]
    result = CliRunner().invoke(cli.app, ["reconstruct", str(photo), *said])
    assert result.exit_code == 1 and isinstance(result.exception, (ValueError, OSError))
    assert message in str(result.exception)


def test_an_option_that_a_study_lacks_is_a_usage_error():
    result = CliRunner().invoke(cli.app, ["sweep", "defence_tokens", "--client", "x"])
    assert result.exit_code == 2 and "--client" in result.output and "Usage" in result.output


def test_the_old_names_of_the_cut_are_understood():
    assert modern(["x", "--layer", "9"]) == ["x", "--at", "block:9"]
    assert modern(["--blocks=3,block:6", "--split", "vit.layers.1"]) == ["--at=block:3,block:6", "--at", "vit.layers.1"]
    assert modern(["--block", "6", "--n", "6"]) == ["--at", "block:6", "--n", "6"]
    result = CliRunner().invoke(cli.app, ["info", "--help"])
    assert "--at" in result.output and "--layer" not in result.output


def test_help_of_the_laboratory_loads_no_study():
    code = (
        "import sys\nfrom draglab.cli import app\ntry:\n app()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "recurrence_curve" in done.stdout and done.stdout.strip().endswith("False")


def test_the_command_works_without_the_laboratory(tmp_path):
    code = "import sys; sys.modules['draglab'] = None; sys.argv = ['dragkit', '--version']; from dragkit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("dragkit 0")


def test_python_m_dragkit_is_the_command():
    done = subprocess.run([sys.executable, "-m", "dragkit", "-h"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "reconstruct" in done.stdout


def test_a_defence_is_made_from_public_photos_that_are_named(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("DRAGKIT_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("DRAGKIT_CACHE", str(tmp_path / "cache"))
    public = tmp_path / "public"
    for i in range(8):
        save_image(data.demo_images(64)["cat"].roll(8 * i, -1), public / f"{i}.png")
    noisy = ["reconstruct", str(photo), "--at", "3", "--turns", "2", "--out", str(tmp_path / "out.png")]
    noisy += ["--defence", "gaussian:0.5"]
    assert isinstance(CliRunner().invoke(cli.app, noisy).exception, FileNotFoundError)
    result = CliRunner().invoke(cli.app, [*noisy, "--public", str(public)])
    assert result.exit_code == 0, result.output


# -- from signatures to options


def every_recorded_command():
    """All commands in the records and in the cards."""
    root = Path(__file__).parents[2]
    found = set()

    def collect(item):
        if isinstance(item, dict):
            found.update({item["command"]} if isinstance(item.get("command"), str) else ())
        for inner in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
            collect(inner)

    for file in [*(root / "book" / "results").glob("*.json"), *zoo.FOLDER.rglob("card.json")]:
        collect(json.loads(file.read_text()))
    return sorted(found)


CATALOGUES = {"sweep": SWEEPS, "measure": MEASUREMENTS, "train": TRAININGS}


def test_every_recorded_command_still_parses_to_what_it_says(monkeypatch):
    """Each is parsed by the command itself, with its function replaced by one that takes note."""
    commands = every_recorded_command()
    assert len(commands) > 50
    for line in commands:
        program, verb, name, *rest = shlex.split(line)
        assert program == "dragkit"
        function, calls = CATALOGUES[verb][name].load(), []

        @functools.wraps(function)
        def noted(calls=calls, **given):
            calls.append(given)
            return Path("out")

        monkeypatch.setattr(type(CATALOGUES[verb][name]), "load", lambda self, noted=noted: noted)
        monkeypatch.setattr("draglab.training.export.ship", lambda run: Path(run))
        result = CliRunner().invoke(cli.app, [verb, name, *rest])
        monkeypatch.undo()
        assert result.exit_code == 0, (line, result.output)
        said = {o.name: o for o in options.options(function)}
        for flag, value in itertools.pairwise(modern(rest)):
            if flag.startswith("--") and not value.startswith("--"):
                option = said[flag[2:].replace("-", "_")]
                held = calls[0]
                for part in option.path:
                    held = held[part] if isinstance(held, dict) else getattr(held, part)
                assert shown(held) == shown(option.read(value)), (line, flag, held)


def shown(value):
    """Numbers as numbers, whatever their spelling."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize("verb", CATALOGUES)
def test_every_command_has_help_and_options_for_all_it_can_say(verb):
    for name, entry in CATALOGUES[verb].items():
        assert entry.line.endswith((".", "?")) and len(entry.line) < 80
        result = CliRunner().invoke(cli.app, [verb, name, "--help"])
        assert result.exit_code == 0, (name, result.output)
        assert ("--steps" if verb == "train" else "--out") in result.output


@dataclass(frozen=True)
class Inner:
    """Attributes:
    ratio: share of the whole.
    """

    ratio: float = 0.5


@dataclass(frozen=True)
class Settings:
    """Attributes:
    steps: how many. inner: more of it.
    widths, names: several.
    """

    steps: int = 3
    widths: tuple[int, ...] = (1, 2)
    names: tuple[str, ...] = ("a",)
    fine: bool = True
    inner: Inner = Inner()
    limit: float | None = None


def study(config: Settings = Settings(steps=7), kind: Literal["one", "two-b"] = "one", tensor: Inner | None = None):
    """What it does.

    Args:
        config: settings. kind: of study.

    Returns:
        nothing.
    """
    seen.append((config, kind, tensor))


seen: list = []


def finish(result: None, loud: bool = False):
    seen.append(loud)


def say(study, *arguments):
    seen.clear()
    options.command(study, finish)(arguments, "study")


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], Settings(steps=7)),
        (["--steps", "9", "--no-fine"], Settings(steps=9, fine=False)),
        (["--widths", "4,5", "--names", "x,y"], Settings(7, (4, 5), ("x", "y"))),
        (["--ratio", "0.25", "--limit", "1e-3"], Settings(7, inner=Inner(0.25), limit=1e-3)),
    ],
)
def test_settings_become_an_option_per_field(arguments, config):
    with pytest.raises(SystemExit) as end:
        say(study, *arguments, "--kind", "two-b", "--loud")
    assert end.value.code == 0
    assert seen == [(config, "two-b", None), True]


@pytest.mark.parametrize("arguments", [["--kind", "three"], ["--tensor", "x"], ["--steps", "1.5"]])
def test_what_cannot_be_said_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        say(study, *arguments)
    assert end.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_numbers_that_are_none_name_their_option():
    with pytest.raises(ValueError, match="widths is '1,x'; it must be numbers with commas between"):
        say(study, "--widths", "1,x")


def test_help_comes_from_docstrings():
    told = {option.name: option.help for option in options.options(study)}
    assert told == {
        "steps": "how many",
        "widths": "several",
        "names": "several",
        "fine": "",
        "ratio": "share of the whole",
        "limit": "",
        "kind": "of study",
    }


def test_two_options_of_one_name_are_refused():
    def twice(a: Inner = Inner(), ratio: int = 1): ...

    with pytest.raises(TypeError, match="two options of one name"):
        options.command(twice, lambda result: None)


def test_training_takes_its_settings_and_ships_what_it_made(monkeypatch, tmp_path):
    from draglab.training import autoencoder, export

    calls, shipped = [], []

    @functools.wraps(autoencoder.train_autoencoder)
    def noted(**given):
        calls.append(given)
        return tmp_path / "coarse64-vae" / "export"

    monkeypatch.setattr(autoencoder, "train_autoencoder", noted)
    monkeypatch.setattr(export, "ship", lambda run: shipped.append(run) or tmp_path)
    arguments = ["--steps", "7", "--channels", "8,8,8,8", "--device", "cpu", "--name", "coarse64", "--ship"]
    result = CliRunner().invoke(cli.app, ["train", "autoencoder", *arguments])
    assert result.exit_code == 0, result.output
    config, recipe = calls[0]["config"], calls[0]["recipe"]
    assert (config.steps, config.device, config.warmup) == (7, "cpu", 300)
    assert (recipe.channels, recipe.perceptual_from, calls[0]["name"]) == ((8, 8, 8, 8), 4_000, "coarse64")
    assert shipped == ["coarse64-vae"]
