"""DALLE-3: one million synthetic pictures with several captions each, as 69 WebDataset tars.

https://huggingface.co/datasets/ProGamerGov/synthetic-dataset-1m-dalle3-high-quality-captions
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hfds import record
from hfds.archive import Member, Reader, tar_members, unsafe
from hfds.builder import Builder, Piece, SourceConfig, batched
from hfds.errors import BadRow
from hfds.picture import Examiner, Picture
from hfds.record import printable, text_or_none
from hfds.slices import slice_path
from hfds.text import json_object, json_text

STYLES = ("short_caption", "long_caption", "short_caption2", "long_caption2", "original_prompt")
PICTURES = ("jpg", "jpeg", "png")
BATCH = 2_000
LONGEST = 16 << 20  # bytes of a JSON member
# What the captioning tools leave when they fail.
FAILED = "no content found"


@dataclass
class Row:
    """A pair in the making: `name` is the picture's, `reason` why it will be dropped (then without `image`)."""

    key: str
    name: str | None = None
    image: dict[str, Any] | None = None
    json: bytes | None = None
    picture: Picture | None = None
    reason: str | None = None
    value: str | None = None


@dataclass
class Dalle3Config(SourceConfig):
    """`caption`: the style that becomes `prompt`; all of them are in `captions`."""

    caption: str = "short_caption"


def _config(name: str, caption: str) -> Dalle3Config:
    files = {"train": ("data/data-*.tar", "data-*.tar", "*.tar")}
    return Dalle3Config(name=name, caption=caption, files=files, description=f"prompt is {caption}")


class Dalle3(Builder):
    """DALLE-3 pictures, a few of Midjourney and Stable Diffusion, with CogVLM captions and their LLM summaries.

    `captions` holds every style that is not blank, failed ("No content found") or looping; styles given as lists have
    one entry per text. `prompt` is the config's style, null when that one is missing or unusable (the reason is in
    `extra.caption_problems`). `url` is the source's, `width` and `height` are measured from the picture itself.

    `extra`: image_name, md5_pil_hash, md5_file_hash, sha512_hash, resolution, width, height (as the JSON says them, if
    other than measured), source, caption_problems {style: "blank" | "failed" | "looping" | "wrong_type"}, and any key
    that the source adds later.
    """

    NAME = "dalle3"
    HOMEPAGE = "https://huggingface.co/datasets/ProGamerGov/synthetic-dataset-1m-dalle3-high-quality-captions"
    LICENSE = "MIT"
    REPO = "ProGamerGov/synthetic-dataset-1m-dalle3-high-quality-captions"
    BUILDER_CONFIG_CLASS = Dalle3Config
    BUILDER_CONFIGS = [_config(style.removesuffix("_caption"), style) for style in STYLES]  # noqa: RUF012
    DEFAULT_CONFIG_NAME = "short"

    config: Dalle3Config

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """One pass over a tar: pictures are hashed and measured where they lie, each with its JSON is one row."""
        with Reader(piece.path) as reader:
            for rows in batched(self._rows(reader, piece), BATCH):
                yield self._table(rows)

    def _rows(self, reader: Reader, piece: Piece) -> Iterator[Row]:
        """Rows in the order in which they become complete; the two members of a pair need not be neighbours."""
        examine = Examiner()
        waiting: dict[str, Row] = {}
        done: set[str] = set()
        for member in tar_members(reader, piece.name):
            stem, _, extension = member.name.rpartition(".")
            row = waiting.get(stem) or Row(stem)
            if reason := _unusable(member, stem, extension.lower(), row, done):
                yield Row(f"{printable(member.name)}@{member.offset}", reason=reason, value=member.name)
                continue
            waiting[stem] = row
            try:
                if extension.lower() == "json":
                    row.json = b"{}"  # of one that cannot be read
                    row.json = _content(reader, member)
                else:
                    row.name = member.name
                    row.picture = examine(reader, member.offset, member.size)
                    row.image = (
                        {"bytes": None, "path": slice_path(member.offset, member.size, piece.path)}
                        if reader.local
                        else {"bytes": reader.read(member.offset, member.size), "path": member.name}
                    )
            except BadRow as bad:
                row.reason, row.value = bad.reason, bad.value
            if row.json is not None and row.name is not None:
                done.add(stem)
                yield waiting.pop(stem)
        for row in waiting.values():
            row.reason = row.reason or ("no_picture" if row.name is None else "no_metadata")
            yield row

    def _table(self, rows: tuple[Row, ...]) -> pa.Table:
        said = [_parse(row) for row in rows]
        texts = [_captions(meta) for meta, _ in said]
        style = self.config.caption
        pictures = [row.picture for row in rows]
        return record.records(
            len(rows),
            id=[f"{self.NAME}/{printable(row.key)}" for row in rows],
            source=self.NAME,
            source_revision=self.revision,
            license=self.LICENSE,
            url=[text_or_none(meta.get("url")) for meta, _ in said],
            image=[row.image for row in rows],
            image_hash=[p and p.hash for p in pictures],
            width=[p and p.width for p in pictures],
            height=[p and p.height for p in pictures],
            prompt=[next((t["text"] for t in good if t["style"] == style), None) for good, _ in texts],
            captions=[good for good, _ in texts],
            extra=[_extra(meta, bad, row.picture) for row, (meta, _), (_, bad) in zip(rows, said, texts, strict=True)],
            dropped=record.drops(
                self.NAME,
                len(rows),
                [row.reason or problem for row, (_, problem) in zip(rows, said, strict=True)],
                [row.value for row in rows],
            ),
        )


def _unusable(member: Member, stem: str, extension: str, row: Row, done: set[str]) -> str | None:
    """Why a member cannot be half of a row, or None."""
    if member.kind == "link":
        return "link"
    if unsafe(member.name):
        return "unsafe_name"
    if member.kind != "file" or (extension != "json" and extension not in PICTURES):
        return "unknown_member"
    taken = row.json is not None if extension == "json" else row.name is not None
    return "duplicate_key" if stem in done or taken else None


def _content(reader: Reader, member: Member) -> bytes:
    """A JSON member, mostly read with its header already."""
    if member.size > LONGEST:
        raise BadRow("too_large", str(member.size))
    return member.head if len(member.head) == member.size else reader.read(member.offset, member.size)


def _parse(row: Row) -> tuple[dict[str, Any], str | None]:
    """What the JSON says, and why it says nothing."""
    if row.json is None:
        return {}, None
    try:
        meta = json_object(row.json.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return {}, "not_utf8"
    return ({}, meta.reason) if isinstance(meta, BadRow) else (meta, None)


def _captions(meta: dict[str, Any]) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Usable captions of every style, and per style why one is not: strings and lists of strings are both accepted."""
    good, bad = [], {}
    for style in STYLES:
        value = meta.get(style)
        if value is None:
            continue
        for text in value if isinstance(value, list) else [value]:
            if problem := _caption_problem(text):
                bad[style] = problem
            else:
                good.append({"style": style, "text": text_or_none(text.strip()) or ""})
    return good, bad


def _caption_problem(text: Any) -> str | None:
    if not isinstance(text, str):
        return "wrong_type"
    if not text.strip():
        return "blank"
    if text.strip().rstrip(".").lower() == FAILED:
        return "failed"
    return "looping" if _loops(text) else None


def _loops(text: str) -> bool:
    """Whether the end of a caption repeats itself: some stretch of its last 128 characters stands there again, and the
    two together cover more than 70 of them (a captioner that got stuck)."""
    tail = text[-128:]
    if len(tail) < 72:
        return False
    return any(tail[-length:] in tail[:-length] for length in range(36, len(tail) // 2 + 1)) or _period(tail) <= 35


def _period(tail: str) -> int:
    """The shortest period of the last 71 characters or more; their number when they have none."""
    end = tail[-71:]
    return next((p for p in range(1, len(end)) if end[p:] == end[:-p]), len(end))


def _extra(meta: dict[str, Any], problems: dict[str, str], picture: Picture | None) -> str | None:
    known = {"url", *STYLES}
    rest = {key: value for key, value in meta.items() if key not in known and value is not None}
    if picture:
        for name, measured in (("width", picture.width), ("height", picture.height)):
            if str(rest.get(name)) == str(measured):
                del rest[name]
    if problems:
        rest["caption_problems"] = problems
    return json_text(rest) if rest else None
