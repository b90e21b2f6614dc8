"""What starting costs: CPU seconds of imports and of `dragkit models`, side by side: `python tests/bench/bench_import.py`."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage

from rich.console import Console
from rich.table import Table

CODE = {
    "python": "pass",
    "import torch": "import torch",
    "import dragkit": "import dragkit",
    "from dragkit.zoo import cards": "from dragkit.zoo import cards; cards.names()",
    "dragkit models": "import sys; sys.argv = ['dragkit', 'models']; from draglab.cli import main; main()",
    "from dragkit import drag": "from dragkit import drag",
    "from dragkit import load_client": "from dragkit import load_client",
    "import diffusers": "from diffusers import AutoencoderKL",
    "from dragkit import LatentPrior": "from dragkit import LatentPrior",
}


def cpu_seconds(code: str) -> float:
    """CPU seconds, user and system, of a fresh Python that runs `code`."""

    def spent() -> float:
        usage = getrusage(RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return spent() - before


def main(rounds: int) -> None:
    for code in CODE.values():  # the files are read once, so that no candidate pays for a cold disk
        cpu_seconds(code)
    turns = [{name: cpu_seconds(code) for name, code in CODE.items()} for _ in range(rounds)]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in CODE}
    table = Table("what", "CPU seconds", "of import torch", "more than python alone")
    for name, seconds in medians.items():
        share, more = seconds / medians["import torch"], seconds - medians["python"]
        table.add_row(name, f"{seconds:.2f}", f"{share:.2f}x", f"{more:.2f}")
    Console().print(f"Python {sys.version.split()[0]}, median of {rounds} rounds", table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)
