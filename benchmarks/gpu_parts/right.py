"""Part 2, right: the numerics of this device against float64 on the CPU.

- parity: `tests/parity` (the authors' numbers) in separate processes, with full float32
  products and as the device multiplies by default (TF32 on recent NVIDIA cards, where the float32
  cases are expected to exceed bounds made for float32: their errors are what is asked).
- regression: prediction and gradients for features of real digits and for random ones, at several
  rows / d and ridges, in the precision "auto" resolves to and in float32.
- layers: BatchNorm in training, whitening, augmentation, the regression's gradient through a net.

An error is the largest difference from the reference over the largest value of the reference.
`ok` compares it with the bound beside it; rows without a bound are for information.
"""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_parts.layers import LAYERS
from gpu_parts.program import ROOT, environment
from gpu_parts.regression import error_table
from gpu_parts.report import Report

# Name, precision of float32 products, and which tests; all but those with default products must
# pass. Side by side, since most of their time goes into compiling small programs.
PARITY = (
    ("float64", "highest", "float64"),
    ("full float32 products", "highest", "not float64"),
    ("default products", None, "not float64"),
)
SMOKE = (("full float32 products", "highest", "schedule or label_loss"),)


def run(report: Report) -> None:
    """The parity tests run beside the other checks: they need little of the device."""
    tests = [_Parity(report, *case) for case in (SMOKE if report.options.smoke else PARITY)]
    report.put(layers={}, regression=[])
    for name, check in LAYERS.items():
        if report.has(2.0, name):
            rows = _guarded(check, report.options.smoke)
            report.put(layers=report.found["layers"] | {name: rows})
    error_table(report)
    report.put(parity={test.name: test.result(report.left() - 1.0) for test in tests})


def _guarded(check: Callable[[bool], dict[str, Any]], smoke: bool) -> dict[str, Any]:
    try:
        return check(smoke)
    except Exception as failure:  # one check that fails must not stop the others
        return {"failed": {"failure": " ".join(str(failure).split())[:500], "ok": False}}


class _Parity:
    """`tests/parity` in a separate process."""

    def __init__(self, report: Report, name: str, precision: str | None, which: str) -> None:
        self.name, self._must_pass = name, precision is not None
        self._xml: Path = report.options.scratch / f"parity-{name.replace(' ', '-')}.xml"
        given = {"JAX_DEFAULT_MATMUL_PRECISION": precision} if precision else {}
        self._log = self._xml.with_suffix(".log")
        # XLA_FLAGS: compilation as in the program, not as the tests set it.
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pytest", "tests/parity", "-v", "-k", which),
                    *("-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"),
                    f"--junitxml={self._xml}",
                ],
                cwd=ROOT,
                env=environment(given | {"XLA_FLAGS": ""}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def result(self, seconds: float) -> dict[str, Any]:
        """How many tests passed, and the first line of every failure."""
        try:
            self._process.wait(max(0.1, seconds))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        said = self._log.read_text(errors="replace")
        if self._xml.is_file():
            passed, failed = _counted(self._xml)
        else:  # stopped, or it did not even start: what it has printed so far
            passed = said.count(" PASSED ")
            failed = dict.fromkeys(re.findall(r"::(\S+) (?:FAILED|ERROR) ", said), "")
        found: dict[str, Any] = {"passed": passed, "failed": failed}
        if not self._xml.is_file():
            found["incomplete"] = said[-500:]
        if self._must_pass:
            found["ok"] = passed > 0 and not failed
        return found


def _counted(xml: Path) -> tuple[int, dict[str, str]]:
    """Tests that passed, and those that did not with the first line of why, of a JUnit file."""
    passed, failed = 0, {}
    for case in ET.parse(xml).getroot().iter("testcase"):
        bad = [found for kind in ("failure", "error") if (found := case.find(kind)) is not None]
        if bad:
            failed[case.get("name", "")] = bad[0].get("message", "").split("\n")[0][:300]
        else:
            passed += case.find("skipped") is None
    return passed, failed
