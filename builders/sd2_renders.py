"""SD2Renders: folders of Stable Diffusion 2 pictures with lists of their prompts, as the image-to-prompt sets came out.

https://www.kaggle.com/jeinsong (rendered, captioned and split by songjein/image-to-prompts-28th-solution) and
https://www.kaggle.com/datasets/xiaozhouwang/sd2gpt2, https://www.kaggle.com/datasets/xiaozhouwang/sd2hardcode
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from hfds import record
from hfds.builder import Builder, Piece, SourceConfig, batched
from hfds.errors import BadFile, BadRow
from hfds.folder import SUFFIXES, Found, PictureFolder, by_name, by_number, folder_file, picture_columns, unlisted
from hfds.record import printable, text_or_none
from hfds.text import blank_as_null, csv_batches, json_lines, json_text, lines
from hfds.upstream import File

BATCH = 2_000
RUN = 20_000  # pictures of a piece
LISTINGS = ("metadata", "metadata_dedup", "metadata_concat", "metadata_concat_split_dedup")
READ: dict[str, Any] = {"file_name": str, "text": str, "orig_text": str, "clip_score": (int, float)}


class Entry(NamedTuple):
    """One entry of a listing: its key by line and, where it has one, its own; its picture's name; what it says."""

    line_key: str
    own_key: str
    name: str
    said: dict[str, Any]
    bad: BadRow | None = None


@dataclass
class SD2Config(SourceConfig):
    """`set`: the published set, part of the id; `pictures`: the folder of pictures beside the listing."""

    set: str = ""
    pictures: str = "."


def _one(name: str, *listings: str, suffix: str = "", pictures: str = ".") -> SD2Config:
    description = f"the pictures that {listings[0]} lists"
    return SD2Config(
        name=name + suffix, files={"train": listings}, set=name, pictures=pictures, description=description
    )


def _split(name: str, train: str, validation: str, suffix: str = "", prefix: str = "") -> SD2Config:
    return SD2Config(
        name=name + suffix,
        files={"train": (f"{prefix}train/{train}.jsonl",), "validation": (f"{prefix}validation/{validation}.jsonl",)},
        set=name,
        description=f"the pictures that train/{train}.jsonl and validation/{validation}.jsonl list",
    )


def _versions(version: str, train: str, validation: str) -> list[SD2Config]:
    """A version with the lists that it is read by, and with each kind of list instead."""
    name = f"image_to_prompt_{version}"
    return [_split(name, train, validation), *[_split(name, kind, kind, f"_{kind}") for kind in LISTINGS]]


class SD2Renders(Builder):
    """Pictures rendered with Stable Diffusion 2, matched with their prompts by file name or by row.

    Configs: `sd2_images_211238`, `chatgpt_dedup_0330` (and `_split`), `openprompts_120k_dedup` (its deduplicated list;
    `_metadata` for the whole), `image_to_prompt_v2` `_v3` `_v4` `_v4_a` `_v4_b` by the lists that the pipeline's notes
    end with (v2 metadata, v3 metadata_dedup, v4 metadata_concat and for validation metadata_concat_split_dedup) or,
    with a name behind it (`image_to_prompt_v2_metadata_dedup`), by that list; `sd2gpt2` and `sd2hardcode`.

    JSON lists: {file_name, text}, later with orig_text and clip_score. `prompt` is `text`; where there is an orig_text
    the text was cleaned and orig_text is what was rendered: `captions` hold it as "original_prompt". clip_score is
    `source_scores.similarity`. `file_name` is looked up among the pictures that are there, by its path below the
    list's folder or by its base name. `id` is sd2_renders/<set>[/<split>]/<file_name>, whichever list of a set is read;
    a line that is no object, or names a picture again, has <list>#<line> instead.

    CSV lists (sd2gpt2, sd2hardcode) do not name their pictures: row n, from 0, belongs to <n>.png, and nothing can
    tell when a list and its pictures do not belong together. Holes in the numbers are rows dropped as "no_picture",
    numbers beyond the last row are pictures dropped as "no_metadata", numbers that begin at 1 stop the build.
    `id` is sd2_renders/<set>/<n, eight digits>.

    A picture that the list does not name is dropped as "no_metadata": of a shorter list these are many, and they are
    not opened. `generation` of the jeinsong sets: model, 50 steps, guidance 9; no seed, because one generator served a
    whole run. It is null for the CSV sets and for names that begin with "gustavosta", which others rendered.

    `extra`: any other key or column, and an orig_text or clip_score of an unexpected type.
    """

    NAME = "sd2_renders"
    HOMEPAGE = "https://www.kaggle.com/datasets/jeinsong/sd2-images-211238"
    LICENSE = "unknown"
    OBTAIN = (
        "get it with: kaggle datasets download --unzip jeinsong/sd2-images-211238, chatgpt-images-dedup-0330[-split], "
        "openprompts-images-120k-dedup or image-to-prompt-train-valid-split-v2 ... -v4-b; xiaozhouwang/sd2gpt2, "
        "xiaozhouwang/sd2hardcode"
    )
    BUILDER_CONFIG_CLASS = SD2Config
    BUILDER_CONFIGS = [  # noqa: RUF012
        _one("sd2_images_211238", "captions.jsonl"),
        _one("chatgpt_dedup_0330", "chatgpt_0330_captions.jsonl", "metadata.jsonl"),
        _split("chatgpt_dedup_0330_split", "metadata", "metadata", prefix="chatgpt_0330_"),
        _one("openprompts_120k_dedup", "metadata_dedup.jsonl"),
        _one("openprompts_120k_dedup", "metadata.jsonl", suffix="_metadata"),
        *_versions("v2", "metadata", "metadata"),
        *_versions("v3", "metadata_dedup", "metadata_dedup"),
        *_versions("v4", "metadata_concat", "metadata_concat_split_dedup"),
        *_versions("v4_a", "metadata_concat", "metadata_concat_split_dedup"),
        *_versions("v4_b", "metadata_concat", "metadata_concat_split_dedup"),
        _one("sd2gpt2", "gpt_generated_prompts.csv", pictures="gpt_generated_images"),
        _one("sd2hardcode", "hardcoded_prompts.csv", pictures="hardcoded_images"),
    ]

    config: SD2Config

    def neighbours(self) -> list[File]:
        """The folders of pictures."""
        lists = [file for files in self.upstream.values() for file in files]
        return [
            folder_file(self._root(file), (Path(file.name).parent / self.config.pictures).as_posix()) for file in lists
        ]

    def _root(self, file: File) -> Path:
        return Path(file.path).parent / self.config.pictures

    def split_file(self, file: File) -> list[Piece]:
        """Runs of entries, the last of them with the pictures that no entry names."""
        PictureFolder(self._root(file))  # says at once that there are none
        if file.name.endswith(".csv"):
            count = sum(len(table) for table in csv_batches(file.path, file.name, ["prompt"]))
            _check_numbers(self._root(file), file, count)
        else:
            count = sum(1 for _ in lines(file.path, file.name))
        return [Piece(file, start, start + RUN if start + RUN < count else None) for start in range(0, count or 1, RUN)]

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """Each entry with its picture; the list is read from its beginning, for names that come again."""
        numbered = piece.name.endswith(".csv")
        folder = PictureFolder(self._root(piece.file), by_number if numbered else by_name)
        split = next(split for split, files in self.upstream.items() if piece.name in [file.name for file in files])
        under = self.config.set if len(self.config.files) == 1 else f"{self.config.set}/{split}"
        for rows in batched(_rows(piece, folder), BATCH):
            yield self._table(under, rows)
        if piece.stop is None:
            for names in batched(folder.unclaimed(), BATCH):
                yield unlisted(self.NAME, under, names, license=self.LICENSE)

    def _table(self, under: str, rows: Sequence[tuple[str, dict[str, Any], Found]]) -> pa.Table:
        keys, said, found = zip(*rows, strict=True)
        prompts, originals = (_texts(said, name) for name in ("text", "orig_text"))
        ours = [_ours(one.get("file_name")) for one in said]
        return record.records(
            len(rows),
            id=[f"{self.NAME}/{under}/{key}" for key in keys],
            source=self.NAME,
            license=self.LICENSE,
            prompt=prompts,
            captions={"prompt": prompts, "original_prompt": originals},
            generation={
                "model": ["stabilityai/stable-diffusion-2" if yes else None for yes in ours],
                "steps": [50 if yes else None for yes in ours],
                "guidance": [9.0 if yes else None for yes in ours],
            },
            source_scores={"similarity": [_score(one.get("clip_score")) for one in said]},
            extra=[_extra(one) for one in said],
            **picture_columns(self.NAME, found),
        )


def _ours(name: object) -> bool:
    """Whether the jeinsong pipeline rendered the picture of that name, which only its lists give."""
    return isinstance(name, str) and not PurePosixPath(name).name.startswith("gustavosta")


def _check_numbers(root: Path, file: File, rows: int) -> None:
    """Raises BadFile where the pictures run from 1 to the number of rows: every prompt would get its neighbour's."""
    numbers = PictureFolder(root, by_number).keys()
    if "0" not in numbers and str(rows) in numbers and str(rows + 1) not in numbers:
        problem = f"its {rows:,} rows count from 0, its pictures from 1 to {rows:,}: each would be its neighbour's"
        raise BadFile(file.name, problem, "fetch list and pictures again, or rename the pictures to 0.png and up")


def _rows(piece: Piece, folder: PictureFolder) -> Iterator[tuple[str, dict[str, Any], Found]]:
    """Key, what is said and picture of the entries of a piece; those before it only claim their pictures."""
    entries = _csv_entries(piece) if piece.name.endswith(".csv") else _json_entries(piece)
    for number, entry in enumerate(entries):
        if piece.stop is not None and number >= piece.stop:
            return
        claimed = entry.bad or folder.claim(entry.name)
        if number < piece.start:
            continue
        text = entry.said.get("text")
        if isinstance(claimed, str) and not isinstance(text, str | None):
            claimed = BadRow("wrong_type", f"text is {type(text).__name__}")
        nameless = entry.bad or (isinstance(claimed, BadRow) and claimed.reason in ("duplicate_key", "unsafe_name"))
        yield entry.line_key if nameless else entry.own_key, entry.said, folder.look(claimed)


def _json_entries(piece: Piece) -> Iterator[Entry]:
    for number, said in json_lines(piece.path, piece.name):
        line_key = f"{PurePosixPath(piece.name).name}#{number}"
        if isinstance(said, BadRow):
            yield Entry(line_key, line_key, "", {}, said)
            continue
        name = said.get("file_name")
        if not isinstance(name, str):
            bad = BadRow("wrong_type", f"file_name is {type(name).__name__}")
            yield Entry(line_key, line_key, "", said, bad)
        else:
            yield Entry(line_key, printable(name) if name.lower().endswith(SUFFIXES) else line_key, name, said)


def _csv_entries(piece: Piece) -> Iterator[Entry]:
    number = 0
    for table in csv_batches(piece.path, piece.name, ["prompt"]):
        for row in table.rename_columns({"prompt": "text"}).to_pylist():
            key = f"{number:08d}"
            yield Entry(key, key, str(number), row)
            number += 1


def _texts(said: Sequence[dict[str, Any]], name: str) -> pa.Array:
    return blank_as_null(pa.array([text_or_none(one.get(name)) for one in said], pa.string()))


def _score(value: object) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if number else None  # type: ignore[arg-type]


def _extra(said: dict[str, Any]) -> str | None:
    rest = {
        name: value
        for name, value in said.items()
        if value is not None and (isinstance(value, bool) or not isinstance(value, READ.get(name, ())))
    }
    return json_text(rest) if rest else None
