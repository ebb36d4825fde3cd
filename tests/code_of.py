"""The Python code of a documentation page, as an importable module."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def module_from(page, folder, name):
    """Writes the last Python block of a page to `folder/name.py`; returns its number of lines."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    (folder / f"{name}.py").write_text(blocks[-1])
    return len(blocks[-1].splitlines())
