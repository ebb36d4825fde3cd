"""The HTML frame of the report: layout and colours, light and dark."""

import base64
from html import escape

_STYLE = """
:root { color-scheme: light dark;
  --ground: #fbfbfa; --card: #ffffff; --ink: #1d2125; --soft: #626a73; --line: #e3e5e8;
  --ours: #3fa877; --ours-ink: #1f7d52; --other: #a9b1ba; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #0f1215; --card: #171b20; --ink: #e6e9ec; --soft: #98a1ab; --line: #2a3037;
  --ours: #3fa877; --ours-ink: #56c893; --other: #5b656f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
header { margin-bottom: 28px; }
header p { margin: 0; }
.kind { color: var(--soft); font-size: 14px; }
h1 { margin: 2px 0 14px; font-size: 30px; line-height: 1.2; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }
.headline { font-size: 19px; max-width: 46em; }
.headline b { color: var(--ours-ink); font-size: 1.15em; white-space: nowrap; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 20px 22px 22px; margin-top: 18px; }
h2 { margin: 0 0 14px; font-size: 17px; overflow-wrap: anywhere; }
.result { width: 100%; border-collapse: collapse; }
.result caption { caption-side: bottom; text-align: right; color: var(--soft); font-size: 13px;
  padding-top: 6px; }
.result th { text-align: left; font-weight: 400; padding: 7px 18px 7px 0; white-space: nowrap; }
.result .value { text-align: right; white-space: nowrap; padding-left: 18px;
  font-variant-numeric: tabular-nums; }
.result .bar { width: 100%; }
.result tr:first-child th, .result tr:first-child .value { font-weight: 650; }
.bar div { position: relative; height: 14px; }
.bar i { position: absolute; top: 0; height: 100%; border-radius: 3px; }
.bar .mean { left: 0; background: var(--other); }
.ours .mean { background: var(--ours); opacity: 0.55; }
tr:first-child .mean { opacity: 1; }
.bar .std { top: 6px; height: 2px; background: var(--ink); border-radius: 1px; }
.wide { overflow-x: auto; }
.heat { border-collapse: separate; border-spacing: 3px; font-variant-numeric: tabular-nums; }
.heat caption { caption-side: bottom; text-align: left; color: var(--soft); font-size: 13px;
  padding-top: 6px; }
.heat th { font-weight: 400; text-align: left; padding: 4px 14px 4px 0; white-space: nowrap; }
.heat thead th { color: var(--soft); font-size: 13px; text-align: center; padding: 0 8px 4px; }
.heat tbody td { background: color-mix(in srgb, var(--ours) var(--shade), transparent);
  border-radius: 5px; padding: 6px 12px; text-align: center; white-space: nowrap; }
dl { margin: 0; }
dt { color: var(--soft); font-size: 13px; }
dd { margin: 0; overflow-wrap: anywhere; }
.facts { display: flex; flex-wrap: wrap; gap: 12px 40px; margin-top: 18px; padding-top: 16px;
  border-top: 1px solid var(--line); }
.files { display: grid; gap: 10px; }
code, pre { font: 13px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 8px; }
img { max-width: 100%; height: auto; display: block; }
.large { text-align: center; overflow-x: auto; }
.large img { margin: 0 auto; }
.strip { display: grid; grid-template-columns: repeat(4, 1fr); gap: 20px 16px; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr));
  gap: 20px 28px; }
.curves figcaption { margin: 0 0 4px; font-size: 14px; color: var(--ink); }
.points { max-width: 560px; margin-bottom: 14px; }
.points.many { max-width: 860px; }
svg { width: 100%; height: auto; display: block; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit !important; }
summary { cursor: pointer; }
pre { overflow-x: auto; margin: 14px 0 0; padding: 14px; background: var(--ground);
  border-radius: 8px; }
.wide { overflow-x: auto; }
.compare { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.compare th { text-align: left; font-weight: 400; padding: 6px 22px 6px 0; min-width: 9em; }
.compare td { padding: 6px 22px 6px 0; white-space: nowrap; }
.compare thead th { color: var(--soft); font-size: 14px; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
.compare .best { font-weight: 650; color: var(--ours-ink); }
.none { margin: 0; color: var(--soft); }
@media (max-width: 640px) {
  main { padding: 22px 12px 40px; }
  h1 { font-size: 24px; }
  .headline { font-size: 17px; }
  section { padding: 16px 14px; }
  .result tr { display: grid; grid-template-columns: 1fr auto; padding: 5px 0; }
  .result th { padding: 0 12px 2px 0; white-space: normal; }
  .result .value { padding: 0; grid-column: 2; grid-row: 1; }
  .result .bar { grid-column: 1 / 3; padding: 0; }
  .bar div { height: 9px; }
  .bar .std { top: 3.5px; }
  .heat { border-spacing: 2px; }
  .heat th { white-space: normal; padding-right: 4px; font-size: 14px; }
  .heat thead th { padding: 0 2px 4px; }
  .heat tbody td { padding: 5px 4px; font-size: 13px; }
  .strip { display: flex; overflow-x: auto; padding-bottom: 10px; }
  .strip figure { flex: 0 0 200px; }
}
"""

# With this policy a browser loads nothing from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def embed(png: bytes, description: str) -> str:
    """An `<img>` that holds the picture itself; `description` is plain text, escaped here."""
    text = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{text}">'


def fill_page(
    *,
    title: str,
    headline: str,
    sections: list[tuple[str, str]],
    kind: str = "Distilled data set",
) -> str:
    """The whole HTML document.

    Args:
      title: plain text, escaped here.
      headline: HTML, the result in one sentence.
      sections: (heading, HTML) pairs; pairs without content are left out.
      kind: what the page is, above the title; plain text.
    """
    body = "\n".join(
        f"<section><h2>{escape(heading)}</h2>\n{content}\n</section>"
        for heading, content in sections
        if content
    )
    name = escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kind">{escape(kind)}</p>
<h1>{name}</h1>
<p class="headline">{headline}</p>
</header>
{body}
</main>
</body>
</html>
"""
