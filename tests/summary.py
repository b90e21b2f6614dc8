"""The last line of `make test`: how many tests ran, from pytest's own reports.

python tests/summary.py FOLDER FAILED_STAGE     # FAILED_STAGE is empty when all stages passed
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def main(folder: Path, stage: str) -> int:
    total = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    seconds = 0.0
    for report in sorted(folder.glob("*.xml")):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            seconds += float(suite.get("time", 0))
            for kind in total:
                total[kind] += int(suite.get(kind, 0))
    failed = total["failures"] + total["errors"]
    passed = total["tests"] - failed - total["skipped"]
    if stage:
        print(f"stopped: `make {stage}` failed")
    print(f"== {passed} passed, {failed} failed, {total['skipped']} skipped in {seconds:.0f}s ==")
    return int(bool(stage) or failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
