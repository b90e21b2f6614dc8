"""Stage the executed notebooks beside the prose, build the site, and look it over: `_build/src` -> `_build/html`.

    python book/build.py

The site holds everything it shows (MathJax included) and makes no external request. Generated here: the footer that
says where a notebook's numbers come from, the claims table and the timings.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
STAGE, HTML, STAMP = BUILD / "src", BUILD / "html", BUILD / "html.json"
# Files MathJax 3 asks for at run time; the wheel holds many more.
MATHJAX = re.compile(
    r"static/mathjax/(tex-mml-chtml\.js|output/chtml/fonts/woff-v2/.*|a11y/assistive-mml\.js|input/tex/extensions/.*)$"
)
# What must not be on a page: a failed cell, stderr noise, markup that was not understood.
SUSPECT = {
    "traceback": "Traceback (most recent call last)",
    "stderr": 'class="output stderr',
    "markup": 'class="problematic"',
}


def stage() -> None:
    """Lay out `_build/src` as the repository is laid out, so that launch buttons point at tracked files.

    Raises:
        FileNotFoundError: a notebook of `_toc.yml` has not been executed.
    """
    shutil.rmtree(STAGE, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "build.py", "draglab")
    shutil.copytree(ROOT / "book", STAGE / "book", ignore=ignored)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, STAGE)
    runs = report()
    for name in re.findall(r"file: notebooks/(\w+)", (ROOT / "_toc.yml").read_text()):
        source = BUILD / "notebooks" / f"{name}.ipynb"
        if not source.exists() or name not in runs:
            raise FileNotFoundError(f"{name} is in _toc.yml and has not been executed: python notebooks/run.py")
        notebook = nbformat.read(source, as_version=4)
        notebook.cells.append(nbformat.v4.new_markdown_cell(footer(runs[name]), id="provenance"))
        (STAGE / "notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, STAGE / "notebooks" / source.name)
    claims = ROOT / "book" / "results" / "claims.json"
    (STAGE / "book" / "claims.md").write_text(claims_page(json.loads(claims.read_text())))
    (STAGE / "book" / "timings.md").write_text(timings_page(list(runs.values())))
    vendor_mathjax(STAGE / "vendor" / "mathjax")


def report() -> dict[str, dict[str, Any]]:
    """What `notebooks/run.py` wrote about its runs, by notebook."""
    path = BUILD / "notebooks" / "report.json"
    return {run["name"]: run for run in json.loads(path.read_text())} if path.exists() else {}


def vendor_mathjax(target: Path) -> None:
    """Copy MathJax 3.2.2 (Apache-2.0) out of the wheel `sphinx-mathjax-offline`, which is used for its files only."""
    try:
        shipped = files("sphinx-mathjax-offline") or []
    except PackageNotFoundError as error:
        raise RuntimeError('sphinx-mathjax-offline is missing: pip install -e ".[book]" -c constraints.txt') from error
    for path in shipped:
        match = MATHJAX.search(str(path))
        if match:
            destination = target / match.group(1)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(path.locate()), destination)


def footer(run: dict[str, Any]) -> str:
    """One small line: where this page's numbers come from."""
    origin = run["provenance"]
    packages = origin["packages"]
    settings = ", ".join(f"{name} = {value}" for name, value in run["parameters"].items())
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "diffusers", "transformers", "timm"))
    where = f"{origin['device']}, {origin['threads']} threads, Python {origin['python']}, {versions}"
    line = f"Executed at commit {origin['commit']} ({settings}) in {run['seconds']:.0f} s on {where}."
    return f'<p class="provenance">{line}</p>'


def claims_page(claims: list[dict[str, Any]]) -> str:
    """The table of the claims in `book/results/claims.json`: a missing field is an error, an empty list is not."""
    lines = [
        "(claims)=",
        "# What was claimed and what we measured",
        "",
        "Each row is one claim of the paper or of this book, with its source: our verdict **at this scale** (small",
        "models, 64 x 64 pixels, ten classes), the value with its 95 % confidence interval and the recorded key, the",
        "number of images, and the chapter that discusses it. The table is generated from `book/results/claims.json`.",
        "",
    ]
    if not claims:
        return "\n".join([*lines, "No claim has been measured yet."]) + "\n"
    lines += [
        "| Claim | Holds here? | Value [95 % interval] | n | Chapter |",
        "|---|---|---|---|---|",
    ]
    for claim in claims:
        value = f"{claim['value']:.3g} [{claim['ci_low']:.3g}, {claim['ci_high']:.3g}] {claim['unit']}".strip()
        where = f"[{claim['notebook'].split('_')[0]}](../notebooks/{claim['notebook']}.ipynb)"
        verdict = "yes" if claim["holds"] else "**no**"
        statement = f"{claim['statement']} ({claim['source']})"
        row = [statement, verdict, f"{value} `{claim['key']}`", str(claim["n"]), where]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    lines += ["", "Where the numbers come from:", ""]
    for claim in claims:
        origin = claim["provenance"]
        lines.append(
            f"- {claim['id']}: `{origin['command']}`, {origin['date']}, commit {origin['commit']}, {origin['device']}"
        )
    return "\n".join(lines) + "\n"


def timings_page(runs: list[dict[str, Any]]) -> str:
    """Measured time and memory of every notebook's last run."""
    lines = [
        "# Timings",
        "",
        "Seconds and peak memory of each notebook's last full run for this site, kernel start included.",
        "",
        "| Notebook | Budget | Seconds | Peak memory (MiB) | Device |",
        "|---|---|---:|---:|---|",
    ]
    for run in runs:
        origin = run["provenance"]
        name = f"[{run['name']}](../notebooks/{run['name']}.ipynb)"
        lines.append(
            f"| {name} | {run['parameters']['budget']} | {run['seconds']:.0f} | {run['peak_mib']} | {origin['device']} |"
        )
    total = sum(run["seconds"] for run in runs)
    return (
        "\n".join([*lines, f"| **all** | | {total:.0f} | {max((run['peak_mib'] for run in runs), default=0)} | |"])
        + "\n"
    )


def key() -> str:
    """sha256 of all that was staged, of this file and of the toolchain: the name of the site it makes."""
    total = hashlib.sha256()
    for path in sorted([*STAGE.rglob("*"), Path(__file__), ROOT / "constraints.txt"]):
        if path.is_file():
            total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def build() -> None:
    """Run Jupyter Book on the staged tree, strictly: any warning is an error.

    Raises:
        RuntimeError: the build failed, or a page shows an error.
    """
    output = BUILD / "book"
    shutil.rmtree(output, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "jupyter-book"), "build", str(STAGE), "--path-output", str(output)]
    done = subprocess.run([*command, "-n", "-W", "--keep-going"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the build failed:\n{(done.stdout + done.stderr)[-6000:]}")
    built = output / "_build" / "html"
    pages = [path for path in built.rglob("*.html") if "_static" not in path.parts]
    found = [
        f"{path.relative_to(built)}: {what}"
        for path in pages
        for what, sign in SUSPECT.items()
        if sign in path.read_text()
    ]
    if found:
        raise RuntimeError("pages show an error:\n" + "\n".join(found))
    shutil.rmtree(HTML, ignore_errors=True)
    built.rename(HTML)
    shutil.rmtree(output)


def main() -> int:
    start = time.monotonic()
    try:
        stage()
        name = key()
        if not (STAMP.exists() and json.loads(STAMP.read_text())["key"] == name and HTML.exists()):
            build()
            size = sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file())
            seconds = round(time.monotonic() - start, 1)
            STAMP.write_text(json.dumps({"key": name, "seconds": seconds, "mebibytes": round(size / 2**20, 1)}) + "\n")
    except (FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    built = json.loads(STAMP.read_text())
    print(
        f"book: {HTML / 'index.html'} ({built['mebibytes']} MiB, built in {built['seconds']} s); open it in a browser"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
