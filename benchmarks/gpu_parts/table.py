"""The results of all parts as one text table; reads JSON only, so it needs no JAX."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu_parts.report import read_json

Found = dict[str, Any]


def table(out: Path) -> str:
    """Everything that the parts have left in a folder so far."""
    lines: list[str] = []
    for part, section in SECTIONS.items():
        found = read_json(out / f"{part}.json")
        if not found:
            continue
        heading = f"{part}: {found.get('status', 'running')}"
        if "seconds" in found:
            heading += f", {found['seconds']:.0f} s"
        lines += ["", f"== {heading}"]
        lines += [f"left out: {what}" for what in found.get("left_out", [])]
        if "error" in found:
            lines.append(f"error: {found['error']}")
        try:
            lines += section(found)
        except (KeyError, TypeError, ValueError) as error:  # a part that was cut short
            lines.append(f"(incomplete: {error!r})")
    return "\n".join(lines).strip()


def failures(out: Path, parts: list[str]) -> list[str]:
    """What was wrong: parts that ended badly, and checks that did not hold."""
    lines = []
    for part in parts:
        found = read_json(out / f"{part}.json")
        status = found.get("status", "wrote no results")
        if status.startswith(("failed", "killed", "left")):
            lines.append(f"{part}: {status}")
        lines += [f"{part}: {'/'.join(path)}" for path in _not_ok(found)]
    return lines


def _not_ok(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all results whose `ok` is false, or that are an error."""
    if isinstance(value, dict):
        if value.get("ok") is False or (
            path and "error" in value and "ok" not in value and isinstance(value["error"], str)
        ):
            yield path
        for name, item in value.items():
            yield from _not_ok(item, (*path, str(name)))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_ok(item, (*path, str(number)))


def _number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None else format(value, form)


def _verdict(row: Found) -> str:
    return {True: "ok", False: "NOT OK"}.get(row.get("ok"), "")  # type: ignore[arg-type]


def facts(found: Found) -> list[str]:
    """Machine, then rates."""
    lines = [
        f"device      {found['devices']} x {found['device']} ({found['platform']}),"
        f" {found['device_gib']:.1f} GiB; {found['cores']} cores",
        f"nvidia-smi  {found['nvidia_smi'] or '-'}",
        f"versions    Python {found['python']}, "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version),
    ]
    lines += [f"{name:15} {rate / 1e12:8.2f} TFLOP/s" for name, rate in found["rates"].items()]
    if "bytes_per_second" in found:
        lines.append(f"{'copy':15} {found['bytes_per_second'] / 1e12:8.3f} TB/s read and written")
    return lines


def right(found: Found) -> list[str]:
    """Errors with their bounds."""
    lines = [f"{'largest relative error':55} {'error':>9} {'bound':>9}"]
    for name, rows in found["layers"].items():
        for what, row in rows.items():
            if "failure" in row:
                lines.append(f"{name}: {row['failure']}")
                continue
            cosine = f"  cosine {row['cosine']:.6f}" if row.get("cosine") is not None else ""
            lines.append(
                f"{f'{name}: {what}':55} {_number(row['error'], '9.1e')}"
                f" {_number(row.get('bound'), '9.0e'):>9} {_verdict(row)}{cosine}"
            )
    lines += ["", f"{'regression':20} rows/d  ridge precision  prediction d features  d labels"]
    for row in found["regression"]:
        head = f"{row['features']:20} {row['rows/d']:6} {row['ridge']:6.0e} {row['precision']:9}"
        if "failure" in row:
            lines.append(f"{head} {row['failure']}")
            continue
        errors = (_number(row[name], ".1e") for name in ("prediction", "d features", "d labels"))
        lines.append(head + "".join(f" {text:>10}" for text in errors) + f" {_verdict(row)}")
    for name, row in found.get("parity", {}).items():
        lines.append(
            f"parity, {name}: {row['passed']} passed, {len(row['failed'])} failed {_verdict(row)}"
        )
        lines += [f"  {test}: {why[:140]}" for test, why in row["failed"].items()]
        if "incomplete" in row:
            lines.append("  (stopped before its end)")
    return lines


def nothing_lost(found: Found) -> list[str]:
    """Runs, then comparisons with the undisturbed one."""
    lines = [f"{'run':26} {'exit codes':12} {'s to first loss':16} {'s compiling':14} resumed from"]
    for name, row in found["runs"].items():
        codes = ", ".join(str(code) for code in row["exit_codes"])
        first = ", ".join(_number(s, ".1f") for s in row["seconds_to_first_loss"])
        compiling = ", ".join(_number(s, ".1f") for s in row["compile_seconds"])
        since = row.get("resumed_from", "")
        lines.append(f"{name:26} {codes:12} {first:16} {compiling:14} {since} {_verdict(row)}")
    for mode in ("deterministic", "default"):
        for name, row in found.get(mode, {}).items():
            if "missing" in row:
                what = f"no result in {', '.join(row['missing'])}"
            elif row["bit_equal"]:
                what = "bit-equal to the undisturbed run"
            else:
                what = (
                    f"differs by {row['largest_difference']:.1e}, losses by"
                    f" {_number(row['loss_difference'], '.1e')}, from step"
                    f" {row['first_step_with_another_loss']}"
                )
            lines.append(f"{mode}, {name}: {what} {_verdict(row)}")
    return lines


def fast(found: Found) -> list[str]:
    """Steps, then phases, in milliseconds."""
    source = found["predicted_with"] or "no rates known"
    lines = [
        f"roofline from: {source}; share: of the measured bfloat16 rate",
        f"{'step':34} {'steps/s':>8} {'ms':>8} {'roofline':>8} {'share':>6} {'GiB':>6}"
        f" {'host ms':>8}",
    ]
    for name, row in found["steps"].items():
        if "error" in row:
            lines.append(f"{name:34} {row['error'][:120]}")
            continue
        share = row["share_of_bfloat16_rate"]
        lines.append(
            f"{name:34} {row['steps_per_second']:8.2f} {1e3 * row['seconds']:8.2f}"
            f" {_milliseconds(row.get('predicted')):>8} {_number(share, '.1%'):>6}"
            f" {row['memory_gib']:6.2f} {1e3 * row['host_gap_seconds']:8.2f}"
        )
    for name, row in found.get("several", {}).items():
        what = row["error"][:120] if "error" in row else f"{1e3 * row['seconds']:.2f} ms per step"
        lines.append(f"{name}: {what}")
    for shape, rows in found["phases"].items():
        lines.append(f"{shape + ', phases':34} {'':8} {'ms':>8} {'roofline':>8}")
        if isinstance(rows.get("error"), str):
            lines.append(f"  {rows['error'][:120]}")
            continue
        for name, row in rows.items():
            what = row["error"][:100] if "error" in row else ""
            lines.append(
                f"  {name:32} {'':8} {_milliseconds(row.get('seconds')):>8}"
                f" {_milliseconds(row.get('predicted')):>8} {what}"
            )
    if "profile" in found:
        lines.append(f"profile of {found['profile']} in artifacts.tar.gz (tensorboard --logdir)")
    return lines


def _milliseconds(seconds: float | None) -> str:
    return _number(None if seconds is None else 1e3 * seconds, ".2f")


def useful(found: Found) -> list[str]:
    """Speed, curve and accuracies of the recipe."""
    settings = " ".join(f"{name}={value}" for name, value in found["settings"].items())
    lines = [f"{found['recipe']}  {settings}"]
    speeds = {"as it is, for a start": found.get("speed"), "whole run": found.get("run")}
    for name, row in speeds.items():
        if row and "steps_per_second" in row:
            goodput = f", goodput {row['goodput']:.2f}" if "goodput" in row else ""
            lines.append(
                f"{name}: {row['steps_per_second']:.1f} steps/s, waiting for input"
                f" {row['input_wait_fraction']:.2%} of the time{goodput}"
            )
    run = found.get("run")
    if run is None:
        return [*lines, f"no whole run: {found.get('planned_steps', 0)} steps fit into the time"]
    lines.append(
        f"{found['planned_steps']} steps planned, {run.get('steps', 0)} done in"
        f" {run['seconds']:.0f} s, exit code {run['exit_code']}"
    )
    curve = ", ".join(f"{step}: {_number(value, '.2%')}" for step, value in run["curve"])
    lines.append(f"held-out accuracy by step: {curve or '-'}")
    for name, score in (run["result"] or {}).items():
        if isinstance(score, dict) and "mean" in score:
            lines.append(f"test accuracy, {name:16} {score['mean']:.2%} ± {score['std']:.2%}")
    return lines


SECTIONS: dict[str, Callable[[Found], list[str]]] = {
    "facts": facts,
    "right": right,
    "nothing_lost": nothing_lost,
    "fast": fast,
    "useful": useful,
}
