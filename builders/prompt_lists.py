"""PromptLists: evaluation prompts whose licences are open, exactly as their authors publish them.

PartiPrompts https://github.com/google-research/parti, T2I-CompBench https://github.com/Karine-Huang/T2I-CompBench,
GenEval https://github.com/djghosh13/geneval, DrawBench, COCO and others https://github.com/openai/dalle3-eval-samples,
ImageReward https://github.com/THUDM/ImageReward
"""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from hfds import record
from hfds.archive import Reader
from hfds.builder import Builder, Piece, SourceConfig, batched
from hfds.errors import BadFile, BadRow, SourceMissing
from hfds.record import printable, text_or_none
from hfds.text import json_lines, json_text, json_value, lines

BATCH = 2_000
COMPBENCH = ("3d_spatial", "color", "complex", "non_spatial", "numeracy", "shape", "spatial", "texture")


class Row(NamedTuple):
    """One entry of a list: its `key` there, the prompt as found, and the `rest`."""

    key: str
    prompt: object = None
    rest: dict[str, Any] | None = None
    bad: BadRow | None = None


def _plain(piece: Piece) -> Iterator[Row]:
    """One prompt a line."""
    for number, line in lines(piece.path, piece.name):
        yield _row(f"{number - 1:08d}", line if isinstance(line, BadRow) else {"prompt": line})


def _compbench(piece: Piece) -> Iterator[Row]:
    """One prompt a line, LF or CRLF; the category is the name of the file."""
    category = PurePosixPath(piece.name).stem
    for row in _plain(piece):
        yield row._replace(key=f"{category}/{row.key}", rest={"category": category})


def _partiprompts(piece: Piece) -> Iterator[Row]:
    """A TSV without quoting: `Description of "Dogs Playing Poker"` is just that."""
    rows = lines(piece.path, piece.name)
    _, header = next(rows)
    names = header.split("\t") if isinstance(header, str) else []
    if "Prompt" not in names:
        found = ", ".join(map(repr, names)) or "bytes that are not UTF-8"
        raise BadFile(piece.name, f"no column 'Prompt' in its first line, only {found}")
    for number, line in rows:
        key = f"{number - 2:08d}"
        if isinstance(line, BadRow) or not line.strip():
            yield _row(key, line if isinstance(line, BadRow) else BadRow("blank"))
            continue
        fields = line.split("\t")
        if len(fields) != len(names):
            yield _row(key, BadRow("wrong_fields", f"{len(fields)} fields instead of {len(names)}"))
        else:
            yield _row(key, {k: v for k, v in zip(names, fields, strict=True) if v or k == "Prompt"}, "Prompt")


def _json_lines(piece: Piece) -> Iterator[Row]:
    for number, entry in json_lines(piece.path, piece.name):
        yield _row(f"{number - 1:08d}", entry)


def _json_list(piece: Piece) -> Iterator[Row]:
    """One JSON list of objects, each with an id of its own."""
    with Reader(piece.path) as reader:
        data = reader.read(0, reader.size)
    try:
        entries = json_value(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        problem = f"not a whole JSON file ({str(error)[:200]})" if data else "the file is empty"
        raise BadFile(piece.name, problem) from None
    if not isinstance(entries, list):
        raise BadFile(piece.name, f"it holds one {type(entries).__name__}, wanted a list")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            found = "an object without an id" if isinstance(entry, dict) else type(entry).__name__
            yield _row(f"{number:08d}", BadRow("wrong_type", f"{found} instead of an object with an id"))
        else:
            yield _row(printable(entry["id"]), {k: v for k, v in entry.items() if k != "id"})


def _row(key: str, entry: dict[str, Any] | BadRow, column: str = "prompt") -> Row:
    if isinstance(entry, BadRow):
        return Row(key, bad=entry)
    rest = {name: value for name, value in entry.items() if name != column and value is not None}
    prompt = entry.get(column)
    bad = None
    if prompt is not None and not isinstance(prompt, str):
        bad = BadRow("wrong_type", f"{column} is {type(prompt).__name__}")
    elif prompt is None or not prompt.strip():
        bad = BadRow("blank")
    return Row(key, prompt, rest, bad)


class PromptList(NamedTuple):
    """A published list: where its file lies (in a folder of its own, in its repository, alone) and how it is read."""

    name: str
    license: str
    files: tuple[str, ...]
    rows: Callable[[Piece], Iterator[Row]]


def _at(own: str, repository: str) -> tuple[str, ...]:
    return (own, repository, PurePosixPath(own).name)


LISTS = (
    PromptList("partiprompts", "Apache-2.0", ("PartiPrompts.tsv",), _partiprompts),
    PromptList("t2i_compbench", "MIT", _at("t2i_compbench/*.txt", "examples/dataset/*.txt"), _compbench),
    PromptList(
        "geneval", "MIT", _at("geneval/evaluation_metadata.jsonl", "prompts/evaluation_metadata.jsonl"), _json_lines
    ),
    PromptList("drawbench", "MIT", _at("dalle3_eval/drawbench.txt", "prompts/drawbench.txt"), _plain),
    PromptList(
        "drawbench_upsampled",
        "MIT",
        _at("dalle3_eval/drawbench_upsampled.txt", "prompts/drawbench_upsampled.txt"),
        _plain,
    ),
    PromptList("dalle3_eval", "MIT", _at("dalle3_eval/dalle3_eval.txt", "prompts/dalle3_eval.txt"), _plain),
    PromptList("coco_8k", "CC-BY-4.0", _at("dalle3_eval/8k_coco.txt", "prompts/8k_coco.txt"), _plain),
    PromptList("imagereward_test", "Apache-2.0", _at("imagereward/test.json", "data/test.json"), _json_list),
    PromptList(
        "imagereward_benchmark",
        "Apache-2.0",
        _at("imagereward/benchmark-prompts.json", "benchmark/benchmark-prompts.json"),
        _json_list,
    ),
)


class PromptLists(Builder):
    """Prompts without pictures, for evaluation; a config for each list, and `all` for all of them in one split.

    `id` is prompt_lists/<list>/<key>: the key is the list's own where it has one (ImageReward), else the number of the
    line or row, from 0, behind the category in T2I-CompBench. `license` is that of the list. A line without a prompt,
    as in the COCO captions, is dropped as "blank"; prompts that stand there twice stay.

    `extra`: Category, Challenge, Note (PartiPrompts); category (T2I-CompBench); tag, include, exclude (GenEval);
    generations, ranking (ImageReward); and any key or column that a list adds later.

    GenEval's generation_prompts.txt holds the same texts as its evaluation_metadata.jsonl and is not read, nor are the
    _train and _val files beside T2I-CompBench's lists, which are parts of them.
    """

    NAME = "prompt_lists"
    HOMEPAGE = "https://github.com/google-research/parti"
    LICENSE = "Apache-2.0 AND MIT AND CC-BY-4.0"
    OBTAIN = "get the lists from the repositories named in builders/prompt_lists.py"
    BUILDER_CONFIGS = [  # noqa: RUF012
        *[SourceConfig(name=one.name, files={"test": one.files}, description=one.license) for one in LISTS],
        SourceConfig(name="all", files={"test": ("**/*.[tj]*",)}, description="every list"),
    ]
    DEFAULT_CONFIG_NAME = "all"

    def choose(self, pieces: list[Piece]) -> list[Piece]:
        """The files of this config's lists; with `all`, every list must be there, in the folder of its own."""
        lists = [self._list(piece) for piece in pieces]
        wanted = LISTS if self.config.name == "all" else [one for one in LISTS if one.name == self.config.name]
        if missing := [one for one in wanted if one not in lists]:
            raise SourceMissing(f"{self.NAME}/all: no {missing[0].files[0]}; {self.OBTAIN}, or name one list as config")
        return [piece for piece, one in zip(pieces, lists, strict=True) if one is not None]

    def _list(self, piece: Piece) -> PromptList | None:
        """The list that a file holds."""
        for one in LISTS:
            own = one.files[0]
            mine = fnmatchcase(piece.name, own) and piece.name.count("/") == own.count("/")
            if one.name == self.config.name or (self.config.name == "all" and mine):
                category = one.name != "t2i_compbench" or PurePosixPath(piece.name).stem in COMPBENCH
                return one if category else None
        return None

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """The rows of one file."""
        one = self._list(piece)
        assert one is not None, "choose() left it out"
        for rows in batched(_once(one.rows(piece)), BATCH):
            yield self._table(one, rows)

    def _table(self, one: PromptList, rows: tuple[Row, ...]) -> pa.Table:
        prompts = [text_or_none(row.prompt) if row.bad is None else None for row in rows]
        bad = [row.bad for row in rows]
        return record.records(
            len(rows),
            id=[f"{self.NAME}/{one.name}/{row.key}" for row in rows],
            source=self.NAME,
            source_revision=self.revision,
            license=one.license,
            prompt=prompts,
            captions={"prompt": prompts},
            extra=[json_text(row.rest) if row.rest else None for row in rows],
            dropped=record.drops(self.NAME, len(rows), [b and b.reason for b in bad], [b and b.value for b in bad]),
        )


def _once(rows: Iterator[Row]) -> Iterator[Row]:
    """`rows`, those with a key that was there before marked and named by their number."""
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if row.key in seen:
            key = f"{number:08d}#{row.key}"
            while key in seen:
                key += "#"
            row = Row(key, bad=BadRow("duplicate_key", row.key))
        seen.add(row.key)
        yield row
