"""The card of a distilled set on the Hugging Face hub: `README.md` with a YAML head."""

import json
from typing import Any

from frepo_scale.export.evaluation_figures import grid_of
from frepo_scale.export.folder import note
from frepo_scale.export.formats import Export
from frepo_scale.export.report import ResultTable, result_tables
from frepo_scale.export.result_file import LATER

_CITATION = """@inproceedings{zhou2022dataset,
  title={Dataset Distillation using Neural Feature Regression},
  author={Zhou, Yongchao and Nezhadarya, Ehsan and Ba, Jimmy},
  booktitle={Advances in Neural Information Processing Systems},
  year={2022}
}"""


def card(export: Export, losses: dict[str, Any]) -> str:
    """The text of the card.

    Args:
      export: the set.
      losses: see `export.preprocessing.pixel_losses`.
    """
    source = str(export.provenance.get("dataset", "unknown"))
    classes, (n, height, width, channels) = len(export.present_names), export.images.shape
    parts = [
        _head(source, n, export.class_names),
        f"# {n} distilled images of {source}",
        "![all images](gallery.png)",
        f"Learned images of {height} x {width} pixels, {'colour' if channels == 3 else 'grey'}:"
        f" {n // classes} for each of {classes} classes. A network trained on these images and"
        " their learned labels classifies real images.",
        "## Accuracy",
        _accuracy(export),
        "## Use",
        "`images.safetensors` holds `images` (net inputs: normalised"
        + (", and whitened" if export.preprocessing.whitening is not None else "")
        + "), `labels` (learned, use them with the squared error) and `hard_labels`. `config.json`"
        " describes the preprocessing from pixels to net inputs and the evaluation protocol with"
        " every constant.",
        "```python\nfrom safetensors.numpy import load_file\n\n"
        'data = load_file("images.safetensors")\n'
        'images, labels = data["images"], data["labels"]  # (N, H, W, C) and (N, K), float32\n```',
        "`datasets.load_dataset` with the path of this folder, or its name on the hub, reads the"
        " PNG previews with `label`, `class_name` and `soft_labels`. " + note(losses),
        "## Licence",
        f"Fill in: the licence of the images of {source}, from which this set was learned. Set"
        " `license` in the head of this file.",
        "## Citation",
        f"```bibtex\n{_CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _head(source: str, n: int, class_names: tuple[str, ...]) -> str:
    """YAML; `features` give `load_dataset` the class names."""
    sizes = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    size = next((name for bound, name in sizes if n < bound), "100K<n<1M")
    lines = [
        "---",
        "license: unknown  # fill in the licence of the source data",
        "task_categories:",
        "- image-classification",
        "tags:",
        "- dataset-distillation",
        f"pretty_name: {source} distilled into {n} images",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_dir: previews",
        "  features:",
        "  - name: image",
        "    dtype: image",
        "  - name: label",
        "    dtype:",
        "      class_label:",
        "        names:",
        *(f"          '{k}': {_quoted(name)}" for k, name in enumerate(class_names)),
        "  - name: class_name",
        "    dtype: string",
        "  - name: soft_labels",
        "    list: float32",
        "---",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A text in YAML: JSON, but YAML does not join the halves of characters beyond 16 bits."""
    parts = (json.dumps(c)[1:-1] if ord(c) < 1 << 16 else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(parts) + '"'


def _rows(table: ResultTable) -> list[str]:
    """A table in Markdown, with two axes where the rows have positions."""
    grid = grid_of(table.rows)
    cells = [["", ""], *([row.label, row.text()] for row in table.rows)]
    if grid is not None:
        cells = [["", *grid.columns]]
        for row in grid.rows:
            found = [grid.cells.get((row, column)) for column in grid.columns]
            cells.append([row, *(score.text() if score else "" for score in found)])
    lines = ["| " + " | ".join(text.replace("|", "/") for text in line) + " |" for line in cells]
    return [lines[0], "|---" * len(cells[0]) + "|", *lines[1:]]


def _accuracy(export: Export) -> str:
    selected = {
        "held-out": "The outer step was selected on held-out training images.",
        "last step": "The set is that of the last outer step.",
    }.get(export.results.get("selected_by", ""), "")
    later = export.results.get(LATER) or {}
    parts = [
        _measured(export.results, export.evaluation, selected),
        _measured(later, later.get("protocol") or {}, "Measured by `frepo-scale evaluate`."),
    ]
    return "\n\n".join(part for part in parts if part) or "Not evaluated."


def _measured(results: dict[str, Any], recipe: dict[str, Any], remark: str) -> str:
    """The tables of some results and the protocol; "" where there are none."""
    tables = result_tables(results) if results else []
    if not tables:
        return ""
    lines = []
    for table in tables:
        lines += [f"{table.title}, {table.networks}:" if table.networks else f"{table.title}:", ""]
        lines += [*_rows(table), ""]
    known = ("dataset", "net", "width", "depth", "norm", "steps", "batch", "learning_rate")
    protocol = ", ".join(f"{name} {recipe[name]}" for name in known if name in recipe)
    test = recipe.get("test") if isinstance(recipe.get("test"), dict) else {}
    return "\n".join(
        [
            *lines,
            f"Protocol: {protocol}. Test images: {(test or {}).get('images', 'unknown')}"
            f" ({(test or {}).get('part', 'see config.json')}). {remark}".rstrip(),
        ]
    )
