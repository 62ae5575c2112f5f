"""Markdown of what data says: no markup of its own survives."""

import html
import re
from collections.abc import Sequence

from hfds.record import printable

MOST = 500  # characters of a text
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_BLOCK = re.compile(r"^(?:(\d{1,9})([.)])(?= |$)|(?=[-=:]))")  # what begins a list, a line across, or a heading above
# What becomes a link without any markup. An entity alone is taken for what it stands for; the invisible one behind it,
# a word joiner, is no part of any address.
_LINK = re.compile(r"://|www\.|@", re.IGNORECASE)
_ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(?:/[A-Za-z0-9._~/%+,=-]*)?(?:\?[A-Za-z0-9._~/%+,=&-]*)?")


def escape(text: str, most: int = MOST) -> str:
    """Text without any markup of its own: one line of at most `most` characters, in which every one that Markdown or
    HTML would act on is escaped, and those that cannot be seen are spelled out."""
    line = printable(" ".join(text.split()))
    line = line[: most - 1] + "…" if len(line) > most else line
    safe = _MARKUP.sub(r"\\\1", html.escape(line, quote=False))
    safe = _BLOCK.sub(lambda found: rf"{found[1]}\{found[2]}" if found[1] else "\\", safe)
    return _LINK.sub(lambda found: found[0][:-1] + f"&#{ord(found[0][-1])};&#8288;", safe)


def code(text: str) -> str:
    """Text as code inside a line; not for a cell of a table, which a | ends also in code."""
    line = printable(" ".join(text.split()))[:MOST]
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else ""


def fenced(lines: str, language: str = "") -> str:
    """Lines as a block of code that nothing in them ends."""
    inside = "\n".join(printable(line) for line in lines.split("\n"))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", inside)), default=0))
    return f"{fence}{language}\n{inside}\n{fence}"


def link(text: str, address: str) -> str:
    """A link, where the address is one of https without anything odd in it; else the text alone, escaped."""
    return f"[{escape(text)}]({address})" if _ADDRESS.fullmatch(address) else escape(text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, every cell escaped."""
    return written([*map(escape, header)], [[*map(escape, row)] for row in rows])


def written(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size(number: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
