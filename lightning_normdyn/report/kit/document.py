"""The HTML document around what a page shows: nothing is loaded and nothing runs."""

from __future__ import annotations

from html import escape

from lightning_normdyn.report.kit.style import CSS

# The page may load nothing and run nothing, whatever a label says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, *, header: str, main: str, footer: str) -> str:
    """One self-contained HTML document.

    Args:
        title: in plain text; also the heading.
        header: HTML below the heading.
        main: HTML of the body.
        footer: HTML at the end.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{header}</header>
<main>{main}</main>
<footer>{footer}</footer>
</body>
</html>
"""
