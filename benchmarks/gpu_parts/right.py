"""Part 2, right: the numerics of this device against float64 on the CPU.

- parity: `tests/parity` (the authors' numbers) in processes of their own, once with full float32
  products and once as the device multiplies by default (TF32 on recent NVIDIA cards, where the
  float32 cases are expected to exceed bounds made for float32: their errors are what is asked).
- regression: prediction and gradients for features of real digits and for random ones, at several
  rows / d and ridges, in the precision "auto" resolves to and in float32.
- layers: BatchNorm in training, whitening, augmentation, the regression's gradient through a net.

An error is the largest difference from the reference over the largest value of the reference.
`ok` compares it with the bound beside it; rows without a bound are for information.
"""

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


def run(report: Report) -> None:
    """The parity tests run beside the other checks: they need little of the device."""
    tests = [_Parity(report, "full float32 products", "highest")]
    if not report.options.smoke:
        tests.append(_Parity(report, "default products", None))
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
    """`tests/parity` in a process of its own."""

    def __init__(self, report: Report, name: str, precision: str | None) -> None:
        self.name = name
        self._xml: Path = report.options.scratch / f"parity-{precision}.xml"
        given = {"JAX_DEFAULT_MATMUL_PRECISION": precision} if precision else {}
        # Not what the tests choose by themselves: compilation as in the program.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "tests/parity", "-q"),
                *("-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"),
                f"--junitxml={self._xml}",
                *(("-k", "schedule or label_loss") if report.options.smoke else ()),
            ],
            cwd=ROOT,
            env=environment(given | {"XLA_FLAGS": ""}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> None:
        """Ends the process without results."""
        self._process.kill()
        self._process.wait()

    def result(self, seconds: float) -> dict[str, Any]:
        """How many tests passed, and the first line of every failure."""
        try:
            said, _ = self._process.communicate(timeout=max(0.1, seconds))
        except subprocess.TimeoutExpired:
            self.stop()
            return {"failure": "stopped at the time limit", "ok": False}
        if not self._xml.is_file():
            return {"failure": said[-500:], "ok": False}
        cases = list(ET.parse(self._xml).getroot().iter("testcase"))
        failed = {}
        for case in cases:
            for kind in ("failure", "error"):
                if (found := case.find(kind)) is not None:
                    failed[case.get("name", "")] = found.get("message", "").split("\n")[0][:300]
        skipped = sum(case.find("skipped") is not None for case in cases)
        passed = len(cases) - len(failed) - skipped
        result = {"passed": passed, "skipped": skipped, "failed": failed}
        bound = {"ok": passed > 0 and not failed} if self.name.startswith("full") else {}
        return result | bound
