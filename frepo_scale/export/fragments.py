"""Parts of the HTML of a report: names with values, links to files, the configuration."""

from html import escape
from urllib.parse import quote


def definitions(items: dict[str, str], code: bool = False) -> str:
    """Names and values as HTML; `code` for paths."""
    if not items:
        return ""
    kind, opening, closing = ("files", "<code>", "</code>") if code else ("facts", "", "")
    parts = [
        f"<div><dt>{escape(name)}</dt><dd>{opening}{escape(value)}{closing}</dd></div>"
        for name, value in items.items()
    ]
    return f'<dl class="{kind}">{"".join(parts)}</dl>'


def file_links(paths: dict[str, str]) -> str:
    """Files of a workdir as links, which are relative: the page is in the same folder."""
    parts = []
    for name, path in paths.items():
        target = quote(path.rstrip("/").rpartition("/")[2])
        link = f'<a href="{target}"><code>{escape(path)}</code></a>'
        parts.append(f"<div><dt>{escape(name)}</dt><dd>{link}</dd></div>")
    return f'<dl class="files">{"".join(parts)}</dl>' if parts else ""


def operative_section(operative_config: str) -> str:
    """The operative configuration as HTML, folded."""
    if not operative_config.strip():
        return ""
    return (
        "<details><summary>Operative config: every value the run used</summary>"
        f"<pre>{escape(operative_config.strip())}</pre></details>"
    )
