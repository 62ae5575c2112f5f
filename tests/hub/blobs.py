"""Contents in a folder, under their sha256, and what git and LFS call them."""

import hashlib
import secrets
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

LFS = ("*.arrow", "*.bin", "*.gz", "*.jpg", "*.npy", "*.parquet", "*.png", "*.tar", "*.webp", "*.zip", "*.zst")
ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS).encode()
FOLDERS = ("blobs", "parts", "xorbs")
SMALL = 10_000_000  # bytes: what is larger is kept by LFS whatever its name


class Blobs:
    """The contents below `root`, each moved into place when it is whole."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Deletes all of them, and what is not whole."""
        for folder in FOLDERS:
            for path in (self._root / folder).iterdir():
                path.unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a content is, if it is there."""
        return self._root / "blobs" / sha256

    def incoming(self) -> Path:
        """A file of its own to write into, for `keep`."""
        return self.part(secrets.token_hex(16))

    def part(self, name: str) -> Path:
        """Where something waits that is not whole."""
        return self._root / "parts" / name

    def xorb(self, name: str) -> Path:
        """Where a xorb is, if it is there."""
        return self._root / "xorbs" / name

    def keep(self, file: Path, sha256: str) -> None:
        """Moves a whole file to where its content is looked for."""
        file.replace(self.path(sha256))

    def add(self, data: bytes) -> str:
        """Keeps the bytes; returns their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.path(sha256).exists():
            file = self.incoming()
            file.write_bytes(data)
            self.keep(file, sha256)
        return sha256


def by_lfs(path: str, size: int) -> bool:
    """Whether LFS keeps a file, by its name and size."""
    return size > SMALL or any(fnmatch(PurePosixPath(path).name, pattern) for pattern in LFS)


def git_oid(data: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps instead of a file that LFS keeps."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
