"""Model: a checkpoint as a value, on the Hub at a commit or in a local folder, and what tells it from any other."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import xxhash
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

from hfds.errors import ConfigError, SourceMissing, causes

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Model:
    """A checkpoint: what a step loads, once per process and only when something is left to compute.

    Args:
        repo: a repository on the Hub, or a local folder as `save_pretrained` writes it.
        revision: commit, branch or tag on the Hub; its main branch when None.
        dtype: what it computes in: float32, bfloat16 or float16.
        package: on PyPI, with the same files as the revision. Where it is installed they are read there and not fetched
            from the Hub; what the model is called stays the same.
    """

    files: ClassVar[tuple[str, ...]] = ("*.json", "*.safetensors", "*.txt", "*.model", "*.bin", "*.jinja")
    ignored: ClassVar[tuple[str, ...]] = ("open_clip_*",)  # the same weights once more, for another library

    repo: str
    revision: str | None = None
    dtype: str = "float32"
    package: str | None = None

    @property
    def mark(self) -> str:
        """The file without which a folder holds no such checkpoint."""
        return "config.json"

    def problems(self) -> list[str]:
        """What is wrong with it, one sentence each."""
        found = []
        if not isinstance(self.repo, str) or not isinstance(self.revision, str | None):
            return [f"a model is a repository or folder and a revision, got {self.repo!r} and {self.revision!r}"]
        if self.dtype not in _DTYPES:
            found.append(f"the dtype of a model must be one of {', '.join(_DTYPES)}, got {self.dtype!r}")
        if not self._local and not _REPO.fullmatch(self.repo):
            found.append(f"there is no folder {self.repo!r} with a model, and it is no name of a repository either")
        return found

    @property
    def _local(self) -> bool:
        return Path(self.repo).is_dir()

    @property
    def identity(self) -> str:
        """What it is, wherever it lies: "<repo>@<commit> <dtype>", or the hash of a local folder's files.

        Raises:
            SourceMissing: the Hub does not have it, or cannot be reached and it was never fetched.
        """
        if self._local:
            return f"folder:{self._hash()} {self.dtype}"
        return f"{self.repo}@{self._commit} {self.dtype}"

    def _hash(self) -> str:
        """Of the files as they are now, read again only when one of them was changed."""
        files = self._here()
        stamp = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
        if stamp not in self._hashes:
            self._hashes[stamp] = hash_of(files, Path(self.repo))
        return self._hashes[stamp]

    def _here(self) -> list[Path]:
        found = {path for pattern in self.files for path in Path(self.repo).glob(pattern)}
        return sorted(path for path in found if not any(path.match(pattern) for pattern in self.ignored))

    @cached_property
    def _hashes(self) -> dict[tuple[tuple[str, int, int], ...], str]:
        return {}

    @cached_property
    def _commit(self) -> str:
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.revision
        from huggingface_hub import HfApi

        try:
            return str(HfApi().model_info(self.repo, revision=self.revision).sha)
        except (HTTPError, OSError, ValueError) as error:
            try:
                return self._fetched(offline=True).name
            except SourceMissing:
                raise self._missing(error) from None

    def folder(self) -> Path:
        """Where its files are; fetched from the Hub when they are not here yet.

        Raises:
            SourceMissing: they cannot be fetched.
            ConfigError: the folder holds no model.
        """
        folder = self._place
        if not (folder / self.mark).is_file():
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
            raise ConfigError(f"{self.repo} holds no model: there is no {self.mark} in it, but {there}")
        return folder

    @cached_property
    def _place(self) -> Path:
        if self._local:
            return Path(self.repo)
        there = packaged(self.package) if self.package else None
        return there or self._fetched(offline=False)

    def _fetched(self, offline: bool) -> Path:
        from huggingface_hub import snapshot_download

        revision = self.revision if offline else self._commit
        try:
            found = snapshot_download(
                self.repo,
                revision=revision,
                allow_patterns=[*self.files],
                ignore_patterns=[*self.ignored] or None,
                local_files_only=offline,
            )
            return Path(found)
        except (HTTPError, OSError, ValueError) as error:
            raise self._missing(error) from None

    def _missing(self, error: BaseException) -> SourceMissing:
        where = f"{self.repo} at {self.revision}" if self.revision else self.repo
        last = [*causes(error)][-1]
        reason = " ".join(str(last).split())[:200] or type(last).__name__
        return SourceMissing(
            f"the model {where} cannot be had from the Hub ({reason}): check its name and your connection, "
            "or give a local folder that holds it"
        )


def packaged(name: str) -> Path | None:
    """The folder of the model in an installed package, as its `get_model_path` says; None where it is not installed."""
    try:
        return Path(import_module(name.replace("-", "_")).get_model_path())
    except ImportError:
        return None


@dataclass(frozen=True)
class Pipeline(Model):
    """A checkpoint of several parts, each in a folder of its own, as diffusers writes it.

    Of its weights those in safetensors are read, without the variants that lie beside them (fp16, ema), which `dtype`
    makes needless.
    """

    files = ("model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors")
    ignored = ("*/*.*.safetensors",)

    @property
    def mark(self) -> str:
        """What says which parts there are."""
        return "model_index.json"


@dataclass(frozen=True)
class Lora(Model):
    """A low-rank adapter of another checkpoint: `weights` is the name of its file, as `save_lora_weights` calls it."""

    files = ("*.safetensors",)

    weights: str = "pytorch_lora_weights.safetensors"

    def problems(self) -> list[str]:
        """As of every checkpoint, and that its weights are a file that its identity knows: of a folder those in it."""
        found, name = super().problems(), self.weights
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            found.append(f"the weights of an adapter must be the name of a file in safetensors, got {name!r}")
        elif ".." in (parts := Path(name).parts) or Path(name).is_absolute() or (self._local and len(parts) > 1):
            found.append(f"the weights of an adapter must lie in its folder or repository, got {name!r}")
        return found

    @property
    def mark(self) -> str:
        """Its weights, of which there may be several in a folder."""
        return self.weights

    @property
    def identity(self) -> str:
        """As of every checkpoint, and which weights."""
        return f"{super().identity} {self.weights}"


def hash_of(files: Iterable[Path], folder: Path | None = None) -> str:
    """xxh3-128 over the names and bytes of files, in their order; in a `folder` their paths are their names."""
    whole = xxhash.xxh3_128()
    for path in files:
        one = xxhash.xxh3_128()
        with path.open("rb") as file:
            while data := file.read(1 << 24):
                one.update(data)
        name = path.relative_to(folder).as_posix() if folder else path.name
        whole.update(f"{name}\0{one.hexdigest()}\0".encode())
    return whole.hexdigest()
