"""Gustavosta: 81,910 prompts of Lexica.art, and two renders of them with Stable Diffusion 2.

https://huggingface.co/datasets/Gustavosta/Stable-Diffusion-Prompts (the text)
https://www.kaggle.com/datasets/motono0223/gustavosta-stable-diffusion-prompts-sd2-v2 (the renders)
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from hfds import record
from hfds.builder import Builder, Piece, SourceConfig, batched
from hfds.errors import BadRow
from hfds.folder import Found, PictureFolder, folder_file, picture_columns, unlisted
from hfds.parquet import TEXT, batches, check_columns, schema_of
from hfds.text import blank_as_null, csv_batches, lines
from hfds.upstream import File

BATCH = 2_000
RUN = 20_000  # pictures of a piece
PROMPT, IMAGE_PATH = "Prompt", "image_path"


def _text() -> SourceConfig:
    files = {
        split: tuple(f"{folder}{split}.{kind}" for kind in kinds for folder in ("data/", ""))
        for split, kinds in {"train": ("parquet", "csv"), "eval": ("parquet", "csv", "txt")}.items()
    }
    return SourceConfig(name="text", files=files, description="the prompts as on the Hub")


def _renders(name: str) -> SourceConfig:
    files = {"train": ("train.csv",), "eval": ("eval.csv",)}
    kaggle = f"gustavosta-stable-diffusion-prompts-{name.replace('_', '-')}"
    return SourceConfig(name=name, files=files, description=f"the renders {kaggle} on Kaggle")


class Gustavosta(Builder):
    """Prompts of Lexica.art users, as text or with a picture that Stable Diffusion 2 made of each.

    The splits are `train` and `eval`, as the files are named; the Hub's viewer shows `eval` as "test", because
    `datasets` takes that word in a file's name for the test split.

    `id` is gustavosta/<split>/<number of the row, from 0, eight digits> in every config: text and renders of the same
    prompt share it. A picture that no row names is dropped as "no_metadata", its id gustavosta/<split>/<folder>/<name>.

    Of `image_path`, an absolute path on Kaggle's machines, only the base name is used, and only to look it up among the
    names of the pictures that are there. `extra` holds it as it is, and any column that the source adds later.
    `generation` is null: which checkpoint and settings rendered the pictures is not said.
    """

    NAME = "gustavosta"
    HOMEPAGE = "https://huggingface.co/datasets/Gustavosta/Stable-Diffusion-Prompts"
    LICENSE = "unknown"
    REPO = "Gustavosta/Stable-Diffusion-Prompts"
    OBTAIN = (
        "get the text with: hf download --repo-type dataset Gustavosta/Stable-Diffusion-Prompts --local-dir FOLDER, "
        "the renders with: kaggle datasets download --unzip motono0223/gustavosta-stable-diffusion-prompts-sd2-v2"
    )
    BUILDER_CONFIGS = [_text(), _renders("sd2_v2"), _renders("sd2")]  # noqa: RUF012
    DEFAULT_CONFIG_NAME = "text"

    def neighbours(self) -> list[File]:
        """The folders of pictures, where there are any."""
        roots = [_images(file) for files in self.upstream.values() for file in files]
        return [folder_file(root, root.name) for root in roots if root.is_dir()]

    def split_file(self, file: File) -> list[Piece]:
        """Runs of rows, the last of them with the pictures that no row names; text is one piece."""
        if self.config.name == "text":
            return [Piece(file)]
        PictureFolder(_images(file))  # says at once that there are none
        rows = sum(len(table) for table in csv_batches(file.path, file.name, [PROMPT, IMAGE_PATH]))
        return [Piece(file, start, start + RUN if start + RUN < rows else None) for start in range(0, rows or 1, RUN)]

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """Text by columns; with pictures each row and its picture, looked up by name."""
        return self._read_text(piece) if self.config.name == "text" else self._read_renders(piece)

    def _read_text(self, piece: Piece) -> Iterator[pa.Table]:
        start = 0
        for columns, found in _text_batches(piece):
            yield self._table(_split(piece.file), start, columns, found)
            start += len(columns)

    def _read_renders(self, piece: Piece) -> Iterator[pa.Table]:
        split, folder = _split(piece.file), PictureFolder(_images(piece.file))
        rows = pa.concat_tables(csv_batches(piece.path, piece.name, [PROMPT, IMAGE_PATH]))
        claims = [folder.claim(path and path.rpartition("/")[2]) for path in rows[IMAGE_PATH].to_pylist()]
        stop = len(rows) if piece.stop is None else piece.stop
        for start in range(piece.start, stop, BATCH):
            end = min(start + BATCH, stop)
            found = [folder.look(claimed) for claimed in claims[start:end]]
            yield self._table(split, start, rows.slice(start, end - start), found)
        if piece.stop is None:
            for names in batched(folder.unclaimed(), BATCH):
                yield unlisted(self.NAME, f"{split}/{folder.root.name}", names, license=self.LICENSE)

    def _table(self, split: str, start: int, columns: pa.Table, found: list[Found] | None) -> pa.Table:
        """The rows from number `start` on."""
        rows = len(columns)
        numbers = pc.utf8_lpad(pa.array(range(start, start + rows)).cast(pa.string()), 8, "0")
        prompt = blank_as_null(columns[PROMPT])
        rest = {name: columns[name] for name in columns.column_names if name != PROMPT}
        return record.records(
            rows,
            id=pc.binary_join_element_wise(f"{self.NAME}/{split}", numbers, "/"),
            source=self.NAME,
            source_revision=self.revision,
            license=self.LICENSE,
            prompt=prompt,
            captions={"prompt": prompt},
            extra=record.json_objects(rest) if rest else None,
            **(picture_columns(self.NAME, found) if found else {}),
        )


def _split(file: File) -> str:
    """The split that a file holds: `train` of data/train.parquet."""
    return PurePosixPath(file.name).stem


def _images(file: File) -> Path:
    """The folder of pictures beside a CSV of the renders."""
    return Path(file.path).parent / f"{_split(file)}_images"


def _text_batches(piece: Piece) -> Iterator[tuple[pa.Table, list[Found] | None]]:
    """The columns of a text file, and which rows of it are bad: only single lines of a .txt can be."""
    if piece.name.endswith(".parquet"):
        check_columns(schema_of(piece.path, piece.name), piece.name, {PROMPT: TEXT})
        for batch in batches(piece.path, piece.name):
            yield pa.Table.from_batches([batch]), None
    elif piece.name.endswith(".csv"):
        for table in csv_batches(piece.path, piece.name, [PROMPT]):
            yield table, None
    else:
        for rows in batched(lines(piece.path, piece.name), BATCH):
            texts = [None if isinstance(line, BadRow) else line for _, line in rows]
            found = [Found(bad=line if isinstance(line, BadRow) else None) for _, line in rows]
            yield pa.table({PROMPT: pa.array(texts, pa.string())}), found
