"""Markdown of what data says: no markup of its own survives."""

import html
import re
from collections.abc import Sequence

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_LINKS = {"://": ":&#47;&#47;", "www.": "www&#46;", "@": "&#64;"}  # what becomes a link without any markup


def escape(text: str) -> str:
    """Text without any markup of its own: one line, every character that Markdown or HTML would act on escaped."""
    safe = _MARKUP.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))
    for link, spelled in _LINKS.items():
        safe = safe.replace(link, spelled)
    return safe


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, every cell escaped."""
    lines = [[*map(escape, header)], ["---"] * len(header), *([*map(escape, row)] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size(number: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
