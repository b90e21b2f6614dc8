"""Execute the notebooks: `notebooks/NN_name.py` -> `_build/notebooks/NN_name.ipynb` and `_build/records/NN_name/`.

    python notebooks/run.py                               # all, budget "ci", from the cache where nothing changed
    python notebooks/run.py --only 00 --budget laptop
    python notebooks/run.py -p seed 3 --no-cache

Every run is papermill's, in an empty folder of its own, so that a notebook that reads a relative path fails here and not on
Colab. A result is kept under a key made of all it depends on (`content_key`); prose and captions are not part of the key:
they are taken from the source each time. A failed run leaves the last good copy alone, and itself in `_build/failed/`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import torch
from nbformat import NotebookNode

from dragkit.provenance import provenance

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pair import read, sources

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
BUDGETS = ("ci", "laptop", "colab", "paper")
# What a run can depend on, apart from the notebook and its parameters.
INPUTS = (
    "dragkit/**/*.py",
    "book/draglab/**/*.py",
    "dragkit/zoo/**/*.safetensors",
    "dragkit/zoo/**/*.json",
    "book/results/**/*.json",
    "constraints.txt",
    "notebooks/run.py",
)


@dataclass(frozen=True)
class Run:
    """One line of `_build/notebooks/report.json`."""

    name: str
    parameters: dict[str, Any]
    key: str
    seconds: float
    peak_mib: int
    provenance: dict[str, Any]


def digest(paths: Iterable[Path], root: Path) -> str:
    """sha256 over names (relative to `root`) and contents."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(
            f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return total.hexdigest()


def content_key(
    notebook: NotebookNode, parameters: dict[str, Any], root: Path = ROOT
) -> str:
    """Name of the result: sha256 of code cells, parameters, `INPUTS`, Python and device."""
    files = digest(
        {path for pattern in INPUTS for path in root.glob(pattern) if path.is_file()},
        root,
    )
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu {platform.machine()}"
    )
    parts = [code, sorted(parameters.items()), files, platform.python_version(), device]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def check_parameters(path: Path, parameters: dict[str, Any]) -> None:
    """Refuse a parameter that the notebook at `path` does not declare; papermill alone only warns.

    Raises:
        ValueError: names the parameter and those that the notebook declares.
    """
    declared = papermill.inspect_notebook(str(path))
    unknown = sorted(set(parameters) - set(declared))
    if unknown:
        raise ValueError(
            f"{path.stem} has no parameter {', '.join(unknown)}; it declares: {', '.join(declared) or 'none'}"
        )


def execute(
    notebook: Path,
    executed: Path,
    record: Path,
    parameters: dict[str, Any],
    timeout: float,
) -> tuple[float, int]:
    """Run papermill in a process of its own; gives seconds and peak memory (MiB, summed over its processes).

    Raises:
        RuntimeError: a cell failed.
        TimeoutError: the notebook took longer than `timeout` seconds.
    """
    threads = os.environ.get("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
    caps = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads
    )
    settings = {
        "DRAGKIT_STATIC": "1",
        "DRAGKIT_RECORD": str(record),
        "HF_HUB_OFFLINE": "1",
    }
    settings |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryDirectory() as empty:
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(notebook),
            str(executed),
            "--no-progress-bar",
            "--cwd",
            empty,
        ]
        command += ["--kernel", "python3", "-y", json.dumps(parameters)]
        log = executed.with_suffix(".log")
        start, peak = time.monotonic(), 0
        with log.open("w") as out:
            environment = {
                **os.environ,
                **caps,
                **settings,
                "PYTHONHASHSEED": "0",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            }
            process = psutil.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment
            )
        try:
            while process.poll() is None:
                peak = max(
                    peak,
                    sum(map(_memory, [process, *process.children(recursive=True)])),
                )
                if time.monotonic() - start > timeout:
                    raise TimeoutError(f"not done after {timeout:.0f} s")
                time.sleep(0.1)
        finally:  # a timeout or Ctrl-C must not leave the kernel behind
            family = (
                [*process.children(recursive=True), process]
                if process.is_running()
                else []
            )
            for member in family:
                member.kill()
            process.wait()
    if process.returncode:
        raise RuntimeError(f"a cell failed:\n{log.read_text()[-4000:]}")
    return time.monotonic() - start, peak >> 20


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def merge(source: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The source's prose and cell metadata with the executed outputs, fit for the page.

    papermill's timings go (they would change every page), its injected parameters stay, as a cell that pages do not show.

    Raises:
        ValueError: the run left widget state, which a page without a kernel cannot show.
    """
    if "widgets" in executed.metadata:
        raise ValueError(
            "the run made live widgets; under DRAGKIT_STATIC=1 a notebook must show something static"
        )
    ran = iter([cell for cell in executed.cells if cell.cell_type == "code"])
    cells = []
    for cell in source.cells:
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        done = next(ran)
        if "injected-parameters" in done.metadata.get("tags", []):
            done.metadata = {"tags": ["injected-parameters", "remove-cell"]}
            cells.append(done)
            done = next(ran)
        cells.append(
            {**cell, "outputs": done.outputs, "execution_count": done.execution_count}
        )
    merged = nbformat.from_dict({**source, "cells": cells})
    merged.metadata = {"kernelspec": source.metadata["kernelspec"]}
    for position, cell in enumerate(merged.cells):
        cell["id"] = f"cell-{position:03d}"
    return merged


def run(
    source: Path,
    parameters: dict[str, Any],
    *,
    timeout: float,
    use_cache: bool = True,
    build: Path = BUILD,
) -> Run:
    """Execute one notebook, or take its result from the cache, and put notebook and records in place.

    Raises:
        ValueError, RuntimeError, TimeoutError: see `check_parameters`, `merge` and `execute`.
    """
    notebook = read(source)
    key = content_key(notebook, parameters)
    kept = build / "cache" / source.stem / key
    if not (use_cache and (kept / "run.json").exists()):
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            nbformat.write(notebook, plain := work / f"{source.stem}.ipynb")
            check_parameters(plain, parameters)
            executed, record = work / "executed.ipynb", work / "record"
            record.mkdir()
            try:
                seconds, peak = execute(plain, executed, record, parameters, timeout)
                merge(
                    notebook, nbformat.read(executed, as_version=4)
                )  # a run that cannot be shown is not kept
            except (RuntimeError, TimeoutError, ValueError):
                failed = build / "failed"
                failed.mkdir(parents=True, exist_ok=True)
                if executed.exists():
                    shutil.copy(executed, failed / plain.name)
                raise
            numbers = record / "numbers.json"
            origin = (
                json.loads(numbers.read_text())["provenance"]
                if numbers.exists()
                else provenance()
            )
            report = Run(source.stem, parameters, key, round(seconds, 1), peak, origin)
            (work / "run.json").write_text(json.dumps(asdict(report), indent=1))
            plain.unlink()
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(work, kept)
    report = Run(**json.loads((kept / "run.json").read_text()))
    merged = merge(notebook, nbformat.read(kept / "executed.ipynb", as_version=4))
    (build / "notebooks").mkdir(parents=True, exist_ok=True)
    nbformat.write(merged, build / "notebooks" / f"{source.stem}.ipynb")
    records = build / "records" / source.stem
    shutil.rmtree(records, ignore_errors=True)
    shutil.copytree(kept / "record", records)
    return report


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Execute the notebooks.")
    parser.add_argument(
        "--budget",
        choices=BUDGETS,
        default="ci",
        help="how much computing a notebook may do",
    )
    parser.add_argument(
        "--only", default="", metavar="NN", help="the notebooks whose name starts so"
    )
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter",
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="execute even if nothing changed"
    )
    parser.add_argument(
        "--timeout", type=float, default=1200, help="seconds per notebook"
    )
    chosen = parser.parse_args(arguments)
    parameters: dict[str, Any] = {"budget": chosen.budget}
    for name, value in chosen.p:
        parameters[name] = _literal(value)
    wanted = [source for source in sources() if source.stem.startswith(chosen.only)]
    if not wanted:
        print(f"no notebook starts with {chosen.only!r}", file=sys.stderr)
        return 2
    report = BUILD / "notebooks" / "report.json"
    runs = (
        {}
        if not report.exists()
        else {entry["name"]: entry for entry in json.loads(report.read_text())}
    )
    runs = {
        name: entry
        for name, entry in runs.items()
        if name in {source.stem for source in sources()}
    }
    for source in wanted:
        start = time.monotonic()
        try:
            done = run(
                source,
                parameters,
                timeout=chosen.timeout,
                use_cache=not chosen.no_cache,
            )
        except (ValueError, RuntimeError, TimeoutError) as error:
            print(f"{source.name}: {error}", file=sys.stderr)
            return 1
        runs[done.name] = asdict(done)
        print(
            f"{done.name}: {done.seconds} s, peak {done.peak_mib} MiB (here {time.monotonic() - start:.1f} s)",
            flush=True,
        )
        report.write_text(
            json.dumps([runs[name] for name in sorted(runs)], indent=1) + "\n"
        )
    return 0


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
