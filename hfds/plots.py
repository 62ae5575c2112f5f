"""Plots: one picture of a release's statistics, drawn with Pillow alone, at twice the size that a card shows it in."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, floor, log10
from typing import Any

from datasets import Features, Value
from PIL import Image, ImageDraw, ImageFont

WIDTH, EDGE, GAP = 1600, 48, 56  # pixels
TITLE, LABEL = 30, 23  # heights of letters
HEIGHT = 400  # of a panel
MOST = 10  # panels
BARS = 6  # sources that are named
PAPER, INK, GREY, LINE, FILL = "#fbfbfd", "#1f2430", "#5b6472", "#d8dce4", "#3f6fb5"
KNOWN = {
    "prompt": ("Prompt length", "characters"),
    "megapixels": ("Picture size", "megapixels"),
    "aspect": ("Picture shape", "width / height"),
}
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Panel:
    """A histogram, or bars with a name each where `bars` has any."""

    title: str
    unit: str
    known: Mapping[str, Any]
    bars: Sequence[tuple[str, int]] = ()


def plot(lock: Mapping[str, Any]) -> bytes | None:
    """A PNG of the lengths of prompts, sizes of pictures, scores, and rows by source; None where nothing was measured.

    The same bytes for the same lock and version of Pillow. Letters that its font lacks are question marks.
    """
    if not lock.get("statistics"):
        return None
    panels = _panels(lock)
    lines = ceil(len(panels) / 2)
    width = (WIDTH - 2 * EDGE - GAP) // 2
    picture = Image.new("RGB", (WIDTH, 2 * EDGE + lines * HEIGHT + (lines - 1) * GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, panel in enumerate(panels):
        left = EDGE + number % 2 * (width + GAP)
        top = EDGE + number // 2 * (HEIGHT + GAP)
        _text(draw, (left, top), panel.title, TITLE, INK, width)
        (_bars if panel.bars else _histogram)(draw, panel, (left, top + 50, left + width, top + HEIGHT))
    told = io.BytesIO()
    few = picture.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)  # a third of the bytes
    few.save(told, "PNG")
    return told.getvalue()


def _panels(lock: Mapping[str, Any]) -> list[Panel]:
    """What there is to show, the most telling first."""
    columns, pictures = lock["statistics"]["columns"], lock["statistics"]["pictures"]
    known = {name: columns.get(name) or pictures.get(name) or {} for name in KNOWN}
    found = [Panel(*KNOWN[name], one) for name, one in known.items() if _varies(one)]
    scores = [name for name in _floats(Features.from_dict(lock["columns"])) if name not in KNOWN]
    found += [Panel(name, "", columns[name]) for name in scores if _varies(columns.get(name, {}))]
    rows = Counter({entry["input"]: sum(entry["kept"].values()) for entry in lock["funnel"]})
    bars = [(name, count) for name, count in rows.most_common(BARS) if count]
    if rest := rows.total() - sum(count for _, count in bars):
        bars.append((f"{len([*filter(None, rows.values())]) - len(bars)} more", rest))
    return [*found[: MOST - 1], Panel("Rows by source", "rows", {}, bars)]


def _varies(measured: Mapping[str, Any]) -> bool:
    return "histogram" in measured and measured["min"] < measured["max"]


def _floats(fields: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The columns, and fields of them, that are no whole numbers."""
    found = []
    for name, feature in fields.items():
        if isinstance(feature, dict):
            found += _floats(feature, f"{prefix}{name}.")
        elif isinstance(feature, Value) and feature.dtype.startswith("float"):
            found.append(f"{prefix}{name}")
    return found


def _histogram(draw: ImageDraw.ImageDraw, panel: Panel, box: Box) -> None:
    known = panel.known["histogram"]
    rows, start, step = known["rows"], known["start"], known["step"]
    left, top, right, bottom = box[0] + 84, box[1] + 44, box[2] - 20, box[3] - 78
    tall = max(1, int(_round_up(max(rows) / 3)))
    highest = ceil(max(rows) / tall) * tall
    for number in range(highest // tall + 1):
        y = bottom - (bottom - top) * number * tall // highest
        draw.line([(left, y), (right, y)], LINE, 2)
        _text(draw, (left - 12, y), _short(number * tall), LABEL, GREY, 90, "rm")
    wide = max(len(rows), 8)  # one bin alone is no wall
    place = [left + round((right - left) * (number + (wide - len(rows)) / 2) / wide) for number in range(len(rows) + 1)]
    for number, count in enumerate(rows):
        if count:
            y = min(bottom - (bottom - top) * count // highest, bottom - 3)  # what is there can be seen
            draw.rectangle([place[number] + 1, y, max(place[number] + 1, place[number + 1] - 2), bottom], FILL)
    _text(draw, (left - 12, top - 34), "rows", LABEL, GREY, 90, "rm")
    for value in _ticks(start, start + len(rows) * step, 6 * len(rows) / wide):
        x = place[0] + round((place[-1] - place[0]) * (value - start) / (len(rows) * step))
        draw.line([(x, bottom), (x, bottom + 8)], GREY, 2)
        _text(draw, (x, bottom + 12), _short(value), LABEL, GREY, 140, "ma")
    far = [f"{known[side]:,} rows {side}" for side in ("below", "above") if known[side]]
    said = f"median {_short(panel.known['50%'])}"
    unit = " · ".join(filter(None, [panel.unit, said, *far]))
    _text(draw, ((left + right) // 2, bottom + 46), unit, LABEL, INK, right - left, "ma")


def _bars(draw: ImageDraw.ImageDraw, panel: Panel, box: Box) -> None:
    left, top, right, bottom = box
    step = min(62, (bottom - top) // len(panel.bars))
    for number, (name, rows) in enumerate(panel.bars):
        y = top + number * step
        _text(draw, (left, y), name, LABEL - 2, INK, right - left - 150)
        _text(draw, (right, y), f"{rows:,}", LABEL - 2, INK, 150, "ra")
        end = left + (right - left) * rows // max(count for _, count in panel.bars)
        draw.rectangle([left, y + 27, right, y + 37], LINE)
        draw.rectangle([left, y + 27, max(end, left + 3), y + 37], FILL)


def _text(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, ink: str, most: int, anchor: str = "la"
) -> None:
    """One line, cut where it is wider than `most` pixels."""
    font = _font(size)
    line = "".join(c if c in "·…" or (c.isascii() and c.isprintable()) else "?" for c in " ".join(text[:200].split()))
    while line and font.getlength(line) > most:
        line = line.rstrip("…")[:-1] + "…"
    draw.text(at, line, ink, font, anchor)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)  # Pillow's wheels have FreeType
    return found


def _ticks(low: float, high: float, most: float) -> list[float]:
    """Round numbers from `low` to `high`, `most` or fewer."""
    step = _round_up((high - low) / most)
    return [number * step for number in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _round_up(least: float) -> float:
    """The smallest of ... 0.5, 1, 2, 5, 10, 20 ... that is no less."""
    power = floor(log10(least))
    return next(step * 10.0**power for step in (1, 2, 5, 10) if step * 10.0**power >= least * (1 - 1e-9))


def _short(number: float) -> str:
    """12 of 12, 1.5k of 1500, 0.25 of 0.25."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit and (unit > 1e3 or abs(number) >= 1e4):
            return f"{number / unit:.4g}{name}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
