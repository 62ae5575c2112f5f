"""Builder: the base of every source, a `datasets.ArrowBasedBuilder` that reads upstream files into the common schema.

A source subclasses it with class attributes (`NAME`, `LICENSE`, configs with their upstream files) and one method,
`read(piece)`. Works prepared or streaming, from a local folder or from the Hub at a pinned revision.
"""

import inspect
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from dataclasses import fields as dataclass_fields
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import datasets
import fsspec
import pyarrow as pa
import xxhash
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import errors as hub_errors
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

from hfds import archive, picture, record, slices
from hfds.archive import sha256_of
from hfds.errors import BadFile, ConfigError, HfdsError, SourceMissing, nearest

T = TypeVar("T")
_AS_HUB_USER = threading.RLock()  # see `_as_hub_user`


@dataclass
class SourceConfig(datasets.BuilderConfig):
    """One way to read a source.

    Attributes:
        files: per split, glob patterns below the source's folder; the first pattern that finds files is used, so the
            others are alternatives (another format, a flat folder).
        companions: files that every piece may need (a metadata table), by a name of their own, as patterns likewise;
            one that is found nowhere is simply absent.
    """

    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    companions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class File:
    """One upstream file: its `name` in the source, and where it is. `stamp` changes when the file does."""

    name: str
    path: str  # absolute local path, or an hf:// URL at a commit
    size: int
    stamp: str
    sha256: str | None = None  # where upstream tells it


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
        token = self._clean(token)
        config = next(c for c in self.BUILDER_CONFIGS if c.name == (config_name or self.default_config()))
        self.revision: str | None = None
        self.limit = limit
        self._one: tuple[str, Piece] | None = options.pop("_one", None)
        if self._one is not None:  # see `each_piece`
            split, piece = self._one
            self.upstream = {split: [piece.file]}
            self.companions, self.revision = options.pop("_found")
        else:
            find = self._local_finder(Path(data_dir)) if data_dir else self._hub_finder(revision or self.REVISION, token)
            wanted = {split: p for split, p in config.files.items() if splits is None or split in splits}
            self.upstream = {split: find(patterns, True) for split, patterns in wanted.items()}
            self.companions = {name: found[0] for name, p in config.companions.items() if (found := find(p, False))}
            if chained := [file.name for file in self.files() if "::" in file.name]:
                raise BadFile(chained[0], "fsspec reads the '::' in its name as a chain", "rename it")
        self._options = options
        super().__init__(
            config_name=config.name,
            dataset_name=self.NAME,
            cache_dir=str(cache_dir) if cache_dir else None,
            token=token,
            hash=self._hash(),
            **options,
        )

    def files(self) -> list[File]:
        """Every upstream file that this config reads, by name."""
        found = {f.name: f for files in [*self.upstream.values(), [*self.companions.values()]] for f in files}
        return [found[name] for name in sorted(found)]

    def each_piece(self, cache_dir: str | Path) -> list[tuple[str, "Builder"]]:
        """(split, a builder of one piece alone) in order: each has a cache of its own, so a long build goes on after a
        kill, and a source that gained a file reads only that file."""
        return [
            (split, type(self)(self.config.name, cache_dir=cache_dir, token=self.token, _one=(split, piece),
                               _found=(self.companions, self.revision), **self._options))
            for split, pieces in self.pieces().items()
            for piece in pieces
        ]

    @classmethod
    def default_config(cls) -> str:
        """The config that is read when none is named."""
        return str(cls.DEFAULT_CONFIG_NAME or cls.BUILDER_CONFIGS[0].name)

    @classmethod
    def check_names(cls, config_name: str | None, splits: Sequence[str] | None, options: Mapping[str, Any]) -> None:
        """Raises ConfigError for a config, split or option that this source does not have."""
        names = [config.name for config in cls.BUILDER_CONFIGS]
        name = config_name or cls.default_config()
        if name not in names:
            raise ConfigError(f"{cls.NAME} has no config {name!r}: {nearest(name, names)}")
        known = next(c for c in cls.BUILDER_CONFIGS if c.name == name).files
        if unknown := [s for s in splits or () if s not in known]:
            raise ConfigError(f"{cls.NAME}/{name} has no split {unknown[0]!r}: {nearest(unknown[0], known)}")
        fields = [f.name for f in dataclass_fields(cls.BUILDER_CONFIG_CLASS)]
        if strange := [o for o in options if o not in fields and not o.startswith("_")]:
            raise ConfigError(f"{cls.NAME} has no option {strange[0]!r}: {nearest(strange[0], fields)}")

    @classmethod
    def _clean(cls, token: str | bool | None) -> str | bool | None:
        """The token without the blanks around it, None when nothing is left; no error shows it.

        The clients' own errors do, where it holds a newline: one that was read from a file.
        """
        if not isinstance(token, str):
            return token
        token = token.strip()
        if not all("!" <= letter <= "~" for letter in token):
            raise ConfigError(f"{cls.NAME}: the token holds a character that none has: copy it again, or leave it out")
        return token or None

    # Finding the upstream files

    def _local_finder(self, root: Path) -> Callable[[tuple[str, ...], bool], list[File]]:
        if not root.is_dir():
            raise SourceMissing(f"{self.NAME}: no folder {root}; {self._advice()}")
        root = root.resolve()
        if "::" in str(root):
            raise ConfigError(f"{self.NAME}: the folder {root} has '::' in its name, which fsspec reads as a chain")

        def find(patterns: tuple[str, ...], needed: bool) -> list[File]:
            for pattern in patterns:
                if found := sorted((p for p in root.glob(pattern) if p.is_file()), key=lambda p: p.as_posix()):
                    return [self._local_file(root, path) for path in found]
            there = sorted(path.name for path in root.iterdir())
            return self._nothing(patterns, f"the folder {root}", there, self._advice()) if needed else []

        return find

    def _local_file(self, root: Path, path: Path) -> File:
        name = path.relative_to(root).as_posix()
        return File(name, str(path), path.stat().st_size, stamp_of(path), self.SHA256.get(name))

    def _hub_finder(self, revision: str, token: str | bool | None) -> Callable[[tuple[str, ...], bool], list[File]]:
        if self.REPO is None:
            raise SourceMissing(f"{self.NAME} is not on the Hub and needs a local folder; {self._advice()}")
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        try:
            self.revision = api.dataset_info(self.REPO, revision=revision).sha
            entries = api.list_repo_tree(self.REPO, repo_type="dataset", revision=self.revision, recursive=True)
            listing = [self._hub_file(entry) for entry in entries if hasattr(entry, "size")]
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            raise self._hub_failed(error, revision) from None

        def find(patterns: tuple[str, ...], needed: bool) -> list[File]:
            for pattern in patterns:
                depth = pattern.count("/")
                at_depth = (file for file in listing if file.name.count("/") == depth)
                if found := sorted((f for f in at_depth if fnmatchcase(f.name, pattern)), key=lambda f: f.name):
                    return found
            where, there = f"{self.REPO} at {revision!r}", [file.name for file in listing]
            return self._nothing(patterns, where, there, self.OBTAIN or "give another revision") if needed else []

        return find

    def _hub_file(self, entry: Any) -> File:
        sha256 = entry.lfs.sha256 if entry.lfs else self.SHA256.get(entry.path)
        url = f"hf://datasets/{self.REPO}@{self.revision}/{entry.path}"
        return File(entry.path, url, entry.size, f"{self.revision}:{entry.blob_id}", sha256)

    def _hub_failed(self, error: BaseException, revision: str | None) -> SourceMissing:
        """The error to raise instead of one of the Hub's clients."""
        return SourceMissing(f"{self.NAME}: {self.REPO} {_hub_problem(error, revision)}")

    def _nothing(self, patterns: tuple[str, ...], where: str, there: list[str], advice: str) -> NoReturn:
        seen = ", ".join(there[:5]) + (" ..." if len(there) > 5 else "") if there else "nothing"
        raise SourceMissing(f"{self.NAME}: no {' or '.join(patterns)} in {where}, which holds {seen}; {advice}")

    def _advice(self) -> str:
        if self.OBTAIN or self.REPO is None:
            return self.OBTAIN or "give the folder that holds it as published"
        return f"get it with: hf download --repo-type dataset {self.REPO} --local-dir FOLDER"

    def _hash(self) -> str:
        """The cache key: the code that reads, the files with their sizes and times, and what was asked of them."""
        stamps = {split: [(file.name, file.stamp) for file in files] for split, files in self.upstream.items()}
        found = sorted((name, file.name, file.stamp) for name, file in self.companions.items())
        asked = (self.limit, self.revision, sorted(self._options.items()), self._one and (self._one[0], self._one[1]))
        return xxhash.xxh3_128_hexdigest(
            repr((code_version(type(self)), stamps, found, asked, self.neighbours())).encode("utf-8", "backslashreplace")
        )

    # What a source may override

    def neighbours(self) -> Any:
        """Stamps of files that `read` will use beside those that the config lists, for the cache key."""
        return None

    def split_file(self, file: File) -> list[Piece]:
        """The pieces of one upstream file; more than one lets several processes share it."""
        return [Piece(file)]

    def choose(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces that this config reads, out of all that there are."""
        return pieces

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
        return {s: self.choose([p for f in files for p in self.split_file(f)]) for s, files in self.upstream.items()}

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        self.companions = {name: self._fetch(dl_manager, [file])[0] for name, file in self.companions.items()}
        generators = []
        for split, pieces in self.pieces().items():
            files = self._fetch(dl_manager, [piece.file for piece in pieces])
            here = [replace(piece, file=file) for piece, file in zip(pieces, files, strict=True)]
            generators.append(datasets.SplitGenerator(split, gen_kwargs={"pieces": here}))
        return generators

    def _fetch(self, dl_manager: Any, files: list[File]) -> list[File]:
        """The files where they can be opened now: downloaded from the Hub unless streaming, then checked where a sha256
        is known."""
        remote = [file.path for file in files if "://" in file.path]
        try:
            local = dict(zip(remote, dl_manager.download(remote), strict=True)) if remote else {}
        except (HTTPError, OSError) as error:
            if getattr(error, "errno", None) is not None:  # this machine's, such as a full disk
                raise
            raise self._hub_failed(error, self.revision) from None
        here = [replace(file, path=local.get(file.path, file.path)) for file in files]
        for file, source in zip(here, files, strict=True):
            if file.sha256 and "://" not in file.path and (got := sha256_of(file.path)) != file.sha256:
                problem = f"its sha256 is {got}, upstream says {file.sha256}"
                if file.path == source.path:
                    raise BadFile(file.name, problem)
                get = f"{self.REPO} {shlex.quote(file.name)} --revision {self.revision} --force-download"
                raise BadFile(file.name, problem, f"fetch it again with: hf download --repo-type dataset {get}")
        return here

    def _generate_tables(self, pieces: list[Piece]) -> Iterator[tuple[Key, pa.Table]]:
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
        user = partial(_as_hub_user, self.token) if "://" in piece.path and self.token is not None else nullcontext
        try:
            while True:
                with user():
                    table = next(tables, None)
                if table is None:
                    return
                yield table.cast(record.SCHEMA) if table.schema != record.SCHEMA else table
        except (HfdsError, HTTPError, pa.ArrowException, OSError, EOFError, UnicodeError) as error:
            if any(isinstance(cause, HTTPError) for cause in _causes(error)):
                raise self._hub_failed(error, self.revision) from None
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


@contextmanager
def _as_hub_user(token: str | bool) -> Iterator[None]:
    """Opens every hf:// URL with `token` meanwhile: the URL cannot carry it, the configuration of fsspec can."""
    with _AS_HUB_USER:
        before = fsspec.config.conf.get("hf")
        fsspec.config.conf["hf"] = {**(before or {}), "token": token}
        try:
            yield
        finally:
            del fsspec.config.conf["hf"]
            if before is not None:
                fsspec.config.conf["hf"] = before


def _hub_problem(error: BaseException, revision: str | None) -> str:
    """What is wrong between here and a repository on the Hub, and what to do."""
    causes = [*_causes(error)]

    def found(kind: type[BaseException]) -> bool:
        return any(isinstance(cause, kind) for cause in causes)

    if found(hub_errors.OfflineModeIsEnabled):
        return "is not asked for while HF_HUB_OFFLINE is set: unset it, or give the folder that holds it"
    if found(hub_errors.GatedRepoError) or "access gated repo" in str(error):  # a pool keeps the text alone
        return "is gated: ask for access on its page on the Hub, then log in with: hf auth login"
    if found(hub_errors.RepositoryNotFoundError):
        return "is not on the Hub, or is private: log in as someone who may read it with: hf auth login"
    if found(hub_errors.RevisionNotFoundError):
        return f"has no revision {revision!r} on the Hub: give a branch, tag or commit that it has"
    status = next((cause.response.status_code for cause in causes if isinstance(cause, hub_errors.HfHubHTTPError)), 0)
    if status in (401, 403):
        return f"is not for this token, the Hub answers {status}: log in as someone who may read it with: hf auth login"
    if status >= 500 or status == 429:
        return f"cannot be read now, the Hub answers {status}: try again later"
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return f"cannot be read from the Hub ({why}): check the network, and HF_ENDPOINT if it is set"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def code_version(cls: type) -> str:
    """xxh3-128 over the source of the builder's own modules and of those that read for it."""
    modules = {inspect.getmodule(c) for c in cls.__mro__ if issubclass(c, Builder)}
    texts = sorted(inspect.getsource(m) for m in {*modules, archive, picture, record, slices} if m is not None)
    return xxhash.xxh3_128_hexdigest("\0".join(texts).encode())


def stamp_of(path: Path) -> str:
    """What changes when a local file does: its path, size and time."""
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


def batched(rows: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """`rows` in tuples of `size`, the last one shorter (itertools has it from Python 3.12 on)."""
    iterator = iter(rows)
    while batch := tuple(islice(iterator, size)):
        yield batch
