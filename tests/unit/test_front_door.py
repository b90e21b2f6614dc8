"""`import dragkit` gives the common names and costs nothing; each name loads what it needs and no more."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import dragkit
import draglab

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "timm",
    "scipy",
    "torchvision",
    "matplotlib",
    "lpips",
    "skimage",
    "draglab",
)
OTHER_ATTACKS = (
    "dragkit.attacks.glass",
    "dragkit.priors.gan",
    "dragkit.attacks.inverse",
    "dragkit.attacks.image_prior",
)


def loaded_by(code: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import dragkit\ndir(dragkit), dragkit.__version__",
        "from dragkit.zoo import cards\ncards.card(cards.names()[0])",
        "from dragkit import zoo\nzoo.names()",
        "import draglab",
    ],
)
def test_what_needs_no_torch_does_not_load_it(code):
    assert not loaded_by(code) & {*HEAVY[:-1]}


def test_drag_loads_no_other_attack_and_no_model_library():
    loaded = loaded_by("from dragkit import DragConfig, Message, SplitClient, drag, load_image, save_image")
    assert "torch" in loaded and not loaded & {*HEAVY[1:], *OTHER_ATTACKS}


def test_a_client_of_the_zoo_loads_no_diffusers():
    assert not loaded_by("from dragkit import load_client\nload_client()") & {"diffusers", "timm", *OTHER_ATTACKS}


def test_every_name_is_there_once_more_for_type_checkers():
    tree = ast.parse(Path(dragkit.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.asname or alias.name for node in block.body for alias in node.names}
    assert typed == set(dragkit.__all__) == set(dir(dragkit)) and dragkit.__all__ == sorted(dragkit.__all__)
    for node in block.body:
        for alias in node.names:
            module = importlib.import_module(node.module)
            wanted = getattr(module, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
            assert getattr(dragkit, alias.asname or alias.name) is wanted


def test_the_packages_are_there_by_their_names():
    for room in ("adaptive", "attacks", "bounds", "client", "defenses", "measures", "priors", "zoo"):
        done = subprocess.run([sys.executable, "-c", f"import dragkit; dragkit.{room}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'dragkit' has no attribute 'drog'"):
        dragkit.drog  # noqa: B018
    with pytest.raises(ImportError, match="load_nothing"):
        from dragkit.zoo import load_nothing  # noqa: F401


def test_no_module_is_hidden_by_something_of_its_name():
    names = [
        module.name
        for package in (dragkit, draglab)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    assert len(names) > 80
    modules = {name: importlib.import_module(name) for name in names}
    for name, module in modules.items():
        package, _, last = name.rpartition(".")
        assert getattr(sys.modules[package], last) is module, f"{package}.{last} is not the module {name}"
    assert not {name.partition(".")[2] for name in names} & set(dragkit.__all__)
