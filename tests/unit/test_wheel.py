"""What `pip install` gives: a wheel with all modules, models and recorded figures, which works far from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "dragkit": ROOT / "dragkit",
    "draglab": ROOT / "book" / "draglab",
    "draglab/results": ROOT / "book" / "results",
}


def files(folder: Path, *patterns: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.rglob(pattern)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: what an earlier build left in the checkout would be packed too."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("dragkit", "book/draglab", "book/results"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", copy, "--no-deps", "--no-build-isolation", "-w", out], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A fresh virtual environment with the wheel in it. The wheel's dependencies are lent from this environment, nothing else."""
    home = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", home / "bin" / "python"]
    subprocess.run([*pip, "install", wheel, "--no-deps"], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # its own .pth, of our checkout, is not read there
    return home


def run(home: Path, folder: Path, program: str, *arguments: str) -> str:
    """Output of a program of the environment in `folder`, where there are no photos of a data set."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONSAFEPATH": "1", "DRAGKIT_CACHE": str(folder / "cache"), "DRAGKIT_DATA": str(folder / "none")}
    done = subprocess.run(
        [home / "bin" / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join([name, *path.parent.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for path in folder.rglob("__init__.py")
    }
    assert sorted(listed) == sorted(there | {"draglab.results"})


@pytest.mark.slow
def test_the_wheel_holds_all_modules_models_and_figures_and_nothing_else(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    wanted = {f"dragkit/{name}" for name in files(FOLDERS["dragkit"], "*.py", "py.typed", "*.safetensors", "*.json")}
    wanted |= {f"draglab/{name}" for name in files(FOLDERS["draglab"], "*.py")}
    wanted |= {f"draglab/results/{name}" for name in files(FOLDERS["draglab/results"], "*.json")}
    assert len(names) == len(set(names)) and set(names) == wanted


@pytest.mark.slow
def test_the_zoo_is_packed_once(wheel):
    packed = [(entry.CRC, entry.file_size) for entry in zipfile.ZipFile(wheel).infolist() if entry.file_size > 100_000]
    assert len(packed) > 10 and len(set(packed)) == len(packed)


@pytest.mark.slow
def test_an_installed_wheel_rebuilds_a_photo(installed, tmp_path):
    run(
        installed,
        tmp_path,
        "python",
        "-c",
        "import dragkit, draglab\n"
        f"assert dragkit.__file__.startswith({str(installed)!r}) and draglab.__file__.startswith({str(installed)!r})\n"
        "from dragkit import data, save_image\n"
        "save_image(data.demo_images(64)['cat'], 'cat.png')",
    )
    out = run(installed, tmp_path, "dragkit", "reconstruct", "cat.png", "--turns", "4", "--out", "out.png")
    assert "MS-SSIM" in out and "DRAG (small, k=1)" in out and (tmp_path / "out.png").stat().st_size > 1000


@pytest.mark.slow
def test_an_installed_wheel_has_the_recorded_figures_and_all_commands(installed, tmp_path):
    code = "from draglab.pages.pages import recorded\nimport json\nprint(json.dumps(recorded('claims')))"
    claims = json.loads(run(installed, tmp_path, "python", "-c", code))
    assert claims == json.loads((ROOT / "book" / "results" / "claims.json").read_text())
    assert all(
        name in run(installed, tmp_path, "dragkit", "--help") for name in ("reconstruct", "sweep", "measure", "train")
    )
