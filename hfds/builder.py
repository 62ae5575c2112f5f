"""Builder: the base of every source, a `datasets.ArrowBasedBuilder` that reads upstream files into the common schema.

A source subclasses it with class attributes (`NAME`, `LICENSE`, configs with their upstream files) and one method,
`read(piece)`. Works prepared or streaming, from a local folder or from the Hub at a pinned revision.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import datasets
import pyarrow as pa
import xxhash
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

from hfds import archive, folder, parquet, picture, record, slices, text
from hfds.errors import BadFile, ConfigError, HfdsError, SourceMissing, causes, nearest
from hfds.upstream import File, Place, as_hub_user, clean_token

READERS = (archive, folder, parquet, picture, record, slices, text)  # what sources read with
T = TypeVar("T")


@dataclass
class SourceConfig(datasets.BuilderConfig):
    """One way to read a source.

    Attributes:
        files: per split, glob patterns below the source's folder; the first pattern that finds files is used, so the
            others are alternatives (another format, a flat folder).
        companions: files that every piece may need (a metadata table), by a name of their own, as patterns likewise;
            one that is found nowhere is simply absent.
        repo: its dataset repository on the Hub, where that is not the builder's.
    """

    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repo: str | None = None
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A file, or a run of its parts (row groups, say), that is read by itself."""

    file: File
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """The upstream name of the file."""
        return self.file.name

    @property
    def path(self) -> str:
        """Where the file can be opened."""
        return self.file.path


class Builder(datasets.ArrowBasedBuilder):
    """A source. Subclasses set the class attributes, and `read`.

    Args:
        config_name: one of `BUILDER_CONFIGS`; the first, or `DEFAULT_CONFIG_NAME`, when None.
        data_dir: the folder that holds the source as published; without it the source is taken from the Hub.
        revision: branch, tag or commit on the Hub; resolved to a commit and recorded in every row.
        splits: only these of the config's splits.
        limit: at most this many rows a split.
        cache_dir, token: as in `datasets`.

    Raises:
        ConfigError: unknown config or split.
        SourceMissing: the folder, the files or the repository are not there.
    """

    NAME: ClassVar[str]
    HOMEPAGE: ClassVar[str] = ""
    LICENSE: ClassVar[str] = "unknown"
    CITATION: ClassVar[str] = ""
    REPO: ClassVar[str | None] = None  # dataset repository on the Hub
    REVISION: ClassVar[str] = "main"
    OBTAIN: ClassVar[str] = ""  # where to get what is not on the Hub
    SHA256: ClassVar[Mapping[str, str]] = {}  # of upstream files, where known
    BUILDER_CONFIG_CLASS = SourceConfig
    DEFAULT_WRITER_BATCH_SIZE = 10_000

    config: SourceConfig

    def __init__(
        self,
        config_name: str | None = None,
        *,
        data_dir: str | Path | None = None,
        revision: str | None = None,
        splits: Sequence[str] | None = None,
        limit: int | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        **options: Any,
    ):
        self.check_names(config_name, splits, options)
        token = clean_token(self.NAME, token)
        self.config = config = next(c for c in self.BUILDER_CONFIGS if c.name == (config_name or self.default_config()))
        self.revision: str | None = None
        self.limit = limit
        self._one: tuple[str, Piece] | None = options.pop("_one", None)
        if self._one is not None:  # see `each_piece`
            split, piece = self._one
            self.upstream = {split: [piece.file]}
            self.companions, self.revision = options.pop("_found")
        else:
            if data_dir is not None:
                find = self.place.in_folder(Path(data_dir))
            else:
                self.revision, find = self.place.on_hub(revision or self.REVISION, token)
            wanted = {split: p for split, p in config.files.items() if splits is None or split in splits}
            self.upstream = {split: find(patterns, True) for split, patterns in wanted.items()}
            self.companions = {name: found[0] for name, p in config.companions.items() if (found := find(p, False))}
        self._options = options
        self._pieces: dict[str, list[Piece]] | None = None
        super().__init__(
            config_name=config.name,
            dataset_name=self.NAME,
            cache_dir=str(cache_dir) if cache_dir else None,
            token=token,
            hash=self._hash(),
            **options,
        )

    @property
    def place(self) -> Place:
        """Where this source is to be had."""
        return Place(self.NAME, self.config.name, self.config.repo or self.REPO, self.OBTAIN, self.SHA256)

    @property
    def whole(self) -> bool:
        """Whether this is the builder of all pieces, not of one alone."""
        return self._one is None

    def files(self) -> list[File]:
        """Every upstream file that this config reads, by name."""
        read = [piece.file for pieces in self.pieces().values() for piece in pieces]
        found = {file.name: file for file in [*read, *self.companions.values(), *self.neighbours()]}
        return [found[name] for name in sorted(found)]

    def fetched(self, files: list[File]) -> list[File]:
        """Files of it, where they can be opened on this machine; what was downloaded is not downloaded again."""
        config = datasets.DownloadConfig(token=self.token)
        return self.place.fetch(datasets.DownloadManager(download_config=config), files, self.revision)

    def each_piece(self, cache_dir: str | Path) -> list[tuple[str, "Builder"]]:
        """(split, a builder of one piece alone) in order: each has a cache of its own, so a long build goes on after a
        kill, and a source that gained a file reads only that file."""
        return [
            (
                split,
                type(self)(
                    self.config.name,
                    cache_dir=cache_dir,
                    token=self.token,
                    _one=(split, piece),
                    _found=(self.companions, self.revision),
                    **self._options,
                ),
            )
            for split, pieces in self.pieces().items()
            for piece in pieces
        ]

    @classmethod
    def default_config(cls) -> str:
        """The config that is read when none is named."""
        return str(cls.DEFAULT_CONFIG_NAME or cls.BUILDER_CONFIGS[0].name)

    @classmethod
    def check_names(cls, config_name: str | None, splits: Sequence[str] | None, options: Mapping[str, Any]) -> None:
        """Raises ConfigError for every config, split or option that this source does not have."""
        names = [config.name for config in cls.BUILDER_CONFIGS]
        name, found = config_name or cls.default_config(), []
        if name not in names:
            found.append(f"{cls.NAME} has no config {name!r}: {nearest(name, names)}")
        else:
            known = next(c for c in cls.BUILDER_CONFIGS if c.name == name).files
            strange = [split for split in splits or () if split not in known]
            found += [f"{cls.NAME}/{name} has no split {split!r}: {nearest(str(split), known)}" for split in strange]
        own = {f.name for f in dataclass_fields(cls.BUILDER_CONFIG_CLASS)} - {
            f.name for f in dataclass_fields(SourceConfig)
        }
        for option in options:
            if option not in own and not option.startswith("_"):
                found.append(f"{cls.NAME} has no option {option!r}: {nearest(option, sorted(own))}")
        if found:
            raise ConfigError(*found)

    def _hash(self) -> str:
        """The cache key: the code that reads, the files with their sizes and times, and what was asked of them."""
        stamps = {split: [(file.name, file.stamp) for file in files] for split, files in self.upstream.items()}
        found = sorted((name, file.name, file.stamp) for name, file in self.companions.items())
        beside = [(file.name, file.stamp) for file in self.neighbours()]
        asked = (self.limit, self.revision, sorted(self._options.items()), self._one and (self._one[0], self._one[1]))
        return xxhash.xxh3_128_hexdigest(
            repr((code_version(type(self)), stamps, found, asked, beside)).encode("utf-8", "backslashreplace")
        )

    # What a source may override

    def neighbours(self) -> list[File]:
        """What `read` will use beside the files that the config lists; called before `datasets` has set itself up."""
        return []

    def split_file(self, file: File) -> list[Piece]:
        """The pieces of one upstream file; more than one lets several processes share it."""
        return [Piece(file)]

    def choose(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces that this config reads, out of all that there are."""
        return pieces

    def rows_expected(self, piece: Piece) -> int | None:
        """About how many rows a piece has, so that a progress bar knows its end; None where nobody can know before."""
        return None if piece.stop is None else piece.stop - piece.start

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        """Tables in the common schema with a bounded number of rows each, in the order of the file.

        A row that cannot be read is a row with `dropped` set; a file that cannot be read raises BadFile.
        """
        raise NotImplementedError

    # datasets

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=inspect.getdoc(type(self)) or "",
            features=record.FEATURES,
            homepage=self.HOMEPAGE,
            license=self.LICENSE,
            citation=self.CITATION,
        )

    def pieces(self) -> dict[str, list[Piece]]:
        """Per split what will be read, in order."""
        if self._one is not None:
            return {self._one[0]: [self._one[1]]}
        if self._pieces is None:
            split = {
                s: [piece for file in files for piece in self.split_file(file)] for s, files in self.upstream.items()
            }
            self._pieces = {s: self.choose(pieces) for s, pieces in split.items()}
        return self._pieces

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        fetch = partial(self.place.fetch, dl_manager, commit=self.revision)
        self.companions = dict(zip(self.companions, fetch([*self.companions.values()]), strict=True))
        generators = []
        for split, pieces in self.pieces().items():
            files = fetch([piece.file for piece in pieces])
            here = [replace(piece, file=file) for piece, file in zip(pieces, files, strict=True)]
            # Lists are what `datasets` shares out among processes, each of which would give `limit` rows.
            shared = here if self.limit is None else tuple(here)
            generator = datasets.SplitGenerator(split, gen_kwargs={"pieces": shared})
            expected = [rows for piece in here if (rows := self.rows_expected(piece)) is not None]
            if len(expected) == len(here):
                generator.split_info.num_examples = min(sum(expected), self.limit or sys.maxsize)
            generators.append(generator)
        return generators

    def _generate_tables(self, pieces: Sequence[Piece]) -> Iterator[tuple[Key, pa.Table]]:
        left = self.limit
        for number, piece in enumerate(pieces):
            for batch, table in enumerate(self._read_named(piece)):
                yield Key(number, batch), table if left is None else table[:left]
                left = None if left is None else left - len(table)
                if left is not None and left <= 0:
                    return

    def _read_named(self, piece: Piece) -> Iterator[pa.Table]:
        """`read`, with any failure naming the file, or the Hub where it is the Hub's."""
        tables = self.read(piece)
        user = partial(as_hub_user, self.token) if "://" in piece.path and self.token is not None else nullcontext
        try:
            while True:
                with user():
                    table = next(tables, None)
                if table is None:
                    return
                yield table.cast(record.SCHEMA) if table.schema != record.SCHEMA else table
        except (HfdsError, HTTPError, pa.ArrowException, OSError, EOFError, UnicodeError) as error:
            if any(isinstance(cause, HTTPError) for cause in causes(error)):
                raise self.place.failed(error, self.revision) from None
            if isinstance(error, HfdsError):
                raise
            if isinstance(error, FileNotFoundError):
                what = f"{self.NAME}: {piece.name} is gone ({error}); build again to list the files"
                raise SourceMissing(what) from None
            raise BadFile(piece.name, " ".join(str(error).split())[:300]) from error

    def _as_dataset(self, split: Any, in_memory: bool = False) -> datasets.Dataset:
        info = self.info.splits.get(str(split))
        if info is not None and info.num_examples == 0:  # which `datasets` says corresponds to no data
            return datasets.Dataset(record.SCHEMA.empty_table(), info=self.info, split=split)
        return super()._as_dataset(split, in_memory)

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except DatasetGenerationError as error:  # says nothing by itself; ours names the file and what to do
            if isinstance(error.__cause__, (HfdsError, OSError)):
                raise error.__cause__ from None
            raise


def code_version(cls: type) -> str:
    """xxh3-128 over the source of the builder's own modules and of those that read for it."""
    modules = {inspect.getmodule(c) for c in cls.__mro__ if issubclass(c, Builder)}
    texts = sorted(inspect.getsource(m) for m in {*modules, *READERS} if m is not None)
    return xxhash.xxh3_128_hexdigest("\0".join(texts).encode())


def batched(rows: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """`rows` in tuples of `size`, the last one shorter (itertools has it from Python 3.12 on)."""
    iterator = iter(rows)
    while batch := tuple(islice(iterator, size)):
        yield batch
