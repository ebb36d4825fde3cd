"""The result of a run as a table for the terminal and as one self-contained HTML page."""

import base64
import io
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from frepo_scale.core.atomic import whole_file
from frepo_scale.core.errors import InputError
from frepo_scale.core.paths import read_bytes
from frepo_scale.export.account import duration
from frepo_scale.export.curves import accuracy_curve, loss_curve
from frepo_scale.export.page import fill_page

_MOST_SNAPSHOTS = 8
_NOTHING = "no accuracies: the data set has no test images"
_THUMBNAIL = (440, 640)  # pixels, width and height at most


@dataclass(frozen=True)
class _Score:
    """One line of the result: an accuracy in [0, 1] and its deviation over networks, if known."""

    label: str
    key: str  # the part of the result it was read from
    mean: float
    std: float | None

    def text(self) -> str:
        """The accuracy as "87.1 ± 0.8 %"."""
        spread = "" if self.std is None else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread} %"


def result_table(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The accuracies of a result as rows such as ("random real images", "71.2 ± 0.8 %").

    Args:
      result: what `result.json` holds: "distilled", "distilled_last", "distilled_hard",
        "random_real" and "full_data", each {"mean", "std", "n"} with "top5_mean" and "top5_std"
        where measured; absent parts are left out.
    """
    return [(score.label, score.text()) for score in _scores(result)]


def format_table(result: dict[str, Any]) -> str:
    """The result as aligned plain text for the terminal, without a final newline."""
    rows = result_table(result)
    if not rows:
        return _NOTHING if result else "no result yet"
    labels = max(len(label) for label, _ in rows)
    values = max(len(value) for _, value in rows)
    networks = _networks(result)
    head = "test accuracy" + (f", {networks}" if networks else "")
    return "\n".join([head, *(f"  {label:<{labels}}  {value:>{values}}" for label, value in rows)])


def write_report(
    path: str | Path,
    *,
    title: str,
    result: dict[str, Any],
    metrics: list[dict[str, Any]],
    galleries: list[tuple[int, Path]],
    times: dict[str, str],
    operative_config: str,
    paths: dict[str, str],
) -> None:
    """Writes one HTML page that needs no other file, no network and no script.

    A run that has not finished gives a page that says so and shows what there is.

    Args:
      path: the page to write; an existing one is replaced.
      title: what was run, such as the name of the recipe.
      result: see `result_table`; also read: "steps", "seconds", "config_sha256", "selected_step",
        "selected_by" and "held_out_images". {} where the run has not finished.
      metrics: logged rows, each with "step"; every other key may be missing.
      galleries: (outer step, PNG file) pairs in any order.
      times: where its time went, see `export.account`.
      operative_config: the configuration the run used, shown as it is.
      paths: what to find where, such as {"distilled set": "export/distilled.npz"}.

    Raises:
      InputError: a gallery cannot be read, or `path` cannot be written.
    """
    random_real = next((s.mean for s in _scores(result) if s.key == "random_real"), None)
    curves = [("Loss", loss_curve(metrics)), ("Accuracy", accuracy_curve(metrics, random_real))]
    page = fill_page(
        title=title,
        headline=_headline(result, metrics),
        sections=[
            ("Test accuracy", _bars(result) + _facts(result)),
            ("The distilled images", _final_gallery(galleries, result.get("selected_step"))),
            ("On the way", _strip(galleries)),
            ("Training", _figures(curves)),
            ("Time", _definitions(times)),
            ("Files", _definitions(paths, code=True)),
            ("Configuration", _config(operative_config)),
        ],
    )
    with whole_file(path) as file:
        # Names may hold characters of file names that are not UTF-8.
        file.write(page.encode("utf-8", "xmlcharrefreplace"))


def _scores(result: dict[str, Any]) -> list[_Score]:
    labels = {
        "distilled": _distilled_label(result),
        "distilled_last": "distilled set, last step",
        "distilled_hard": "distilled images, hard labels",
        "random_real": "random real images",
        "full_data": "full training set",
    }
    if result.get("selected_by") == "last step":
        del labels["distilled_last"]  # the first row is that one
    scores = []
    for prefix, suffix in (("", ""), ("top5_", ", top 5")):
        for key, label in labels.items():
            part = result.get(key) or {}
            mean, std = part.get(f"{prefix}mean"), part.get(f"{prefix}std")
            if mean is None:
                continue
            known = std is not None and math.isfinite(std) and part.get("n") != 1
            scores.append(_Score(label + suffix, key + suffix, mean, std if known else None))
    return scores


def _distilled_label(result: dict[str, Any]) -> str:
    chosen = {"held-out": "best on held-out images", "last step": "last step"}
    by = chosen.get(result.get("selected_by", ""))
    return f"distilled set, {by}" if by else "distilled set"


def _networks(result: dict[str, Any]) -> str:
    count = (result.get("distilled") or {}).get("n")
    if not count:
        return ""
    return "1 network" if count == 1 else f"mean ± std of {count} networks"


def _headline(result: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    scores = {score.key: score for score in _scores(result)}
    if "distilled" in scores:
        others = [
            f"{name} {scores[key].text()}"
            for key, name in (
                ("random_real", "as many random real images give"),
                ("full_data", "the full training set gives"),
            )
            if key in scores
        ]
        text = (
            f"<b>{scores['distilled'].text()}</b> test accuracy for new networks trained on the "
            "distilled set alone"
        )
        return text + ("; " + ", ".join(others) if others else "") + "."
    if result:
        return f"<strong>Finished</strong>; {_NOTHING}."
    rows = [row for row in metrics if row.get("step") is not None]
    if not rows:
        return "<strong>No result yet.</strong> This run has not logged a step."
    done = max(row["step"] for row in rows)
    text = f"<strong>No result yet.</strong> This run has not finished: {done:,} outer steps so far"
    probes = [row for row in rows if row.get("probe_accuracy") is not None]
    if probes:
        last = max(probes, key=lambda row: row["step"])
        score = _Score("", "", last["probe_accuracy"], last.get("probe_accuracy_std"))
        text += f"; the probe at step {last['step']:,} reads {score.text()}"
    return text + "."


def _bars(result: dict[str, Any]) -> str:
    scores = _scores(result)
    if not scores:
        return ""
    # From 0 to the best: the lengths stay proportional, also where 7 % is a good result.
    full = max(max(score.mean + (score.std or 0) for score in scores), 1e-9)
    rows = []
    for score in scores:
        low, high = score.mean - (score.std or 0), score.mean + (score.std or 0)
        spread = (
            f'<i class="std" style="left:{_percent(low / full)};'
            f'width:{_percent((high - low) / full)}"></i>'
            if score.std
            else ""
        )
        kind = "ours" if score.key.startswith("distilled") else "other"
        rows.append(
            f'<tr class="{kind}"><th scope="row">{escape(score.label)}</th><td class="bar"><div>'
            f'<i class="mean" style="width:{_percent(score.mean / full)}"></i>{spread}</div></td>'
            f'<td class="value">{score.text()}</td></tr>'
        )
    networks = _networks(result)
    caption = f"<caption>{escape(networks)}</caption>" if networks else ""
    return f'<table class="result">{caption}<tbody>{"".join(rows)}</tbody></table>'


def _percent(fraction: float) -> str:
    return f"{100 * min(max(fraction, 0.0), 1.0):.2f}%"


def _facts(result: dict[str, Any]) -> str:
    facts = {}
    if (steps := result.get("steps")) is not None:
        facts["outer steps"] = f"{steps:,}"
    if (seconds := result.get("seconds")) is not None:
        facts["time"] = duration(seconds)
    if (selected := result.get("selected_step")) is not None:
        by = result.get("selected_by")
        held_out = result.get("held_out_images")
        how = f", best on {held_out:,} held-out images" if by == "held-out" and held_out else ""
        facts["exported step"] = f"{selected:,}{how}"
    if digest := result.get("config_sha256"):
        facts["configuration"] = digest[:12]
    return _definitions(facts)


def _final_gallery(galleries: list[tuple[int, Path]], selected: int | None) -> str:
    if not galleries:
        return '<p class="none">No gallery has been saved yet.</p>'
    steps = dict(sorted(galleries))
    # What was exported, if it has a picture of its own; the latest otherwise.
    step = selected if selected in steps else max(steps)
    what = "The exported set" if step == selected else "The latest picture"
    image = _embed(_read(steps[step]), f"distilled images after {step:,} outer steps")
    return f'<figure class="large">{image}<figcaption>{what}, step {step:,}</figcaption></figure>'


def _strip(galleries: list[tuple[int, Path]]) -> str:
    ordered = sorted(galleries)
    if len(ordered) < 2:
        return ""
    count = min(_MOST_SNAPSHOTS, len(ordered))
    chosen = [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]
    figures = [
        f"<figure>{_embed(_thumbnail(file), f'distilled images after {step:,} outer steps')}"
        f"<figcaption>step {step:,}</figcaption></figure>"
        for step, file in chosen
    ]
    # tabindex: whoever has no pointer scrolls with the keyboard.
    return f'<div class="strip" tabindex="0">{"".join(figures)}</div>'


def _read(file: Path) -> bytes:
    try:
        content = read_bytes(file)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{file}: cannot be read ({reason})", "a gallery PNG") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{file}: not a PNG file", "a gallery PNG")
    return content


def _thumbnail(file: Path) -> bytes:
    from PIL import Image

    content = _read(file)
    try:
        image = Image.open(io.BytesIO(content))
        image.thumbnail(_THUMBNAIL, Image.Resampling.BOX)
    except (OSError, SyntaxError) as error:  # Pillow's words for a damaged PNG
        raise InputError(f"{file}: damaged ({error})", "a gallery PNG") from error
    small = io.BytesIO()
    image.save(small, format="png", optimize=True)
    return small.getvalue()


def _embed(png: bytes, description: str) -> str:
    text = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{text}">'


def _figures(curves: list[tuple[str, str]]) -> str:
    parts = [
        f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in curves if svg
    ]
    if not parts:
        return '<p class="none">Nothing has been logged yet.</p>'
    return f'<div class="curves">{"".join(parts)}</div>'


def _definitions(items: dict[str, str], code: bool = False) -> str:
    if not items:
        return ""
    kind, opening, closing = ("files", "<code>", "</code>") if code else ("facts", "", "")
    parts = [
        f"<div><dt>{escape(name)}</dt><dd>{opening}{escape(value)}{closing}</dd></div>"
        for name, value in items.items()
    ]
    return f'<dl class="{kind}">{"".join(parts)}</dl>'


def _config(operative_config: str) -> str:
    if not operative_config.strip():
        return ""
    return (
        "<details><summary>Operative config: every value the run used</summary>"
        f"<pre>{escape(operative_config.strip())}</pre></details>"
    )
