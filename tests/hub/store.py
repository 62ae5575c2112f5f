"""What a Hub keeps: tokens, repositories, refs and commits in SQLite, contents in Blobs.

A commit is one transaction: whoever kills the server loses nothing that was answered. Several processes may have a
store open.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from hub.blobs import ATTRIBUTES, Blobs, git_oid, pointer

SCHEMA = """
create table if not exists tokens (token text primary key, user text, role text, orgs text);
create table if not exists repos (name text primary key, created text, private int, gated text, quota int);
create table if not exists refs (repo text, name text, head text, primary key (repo, name));
create table if not exists commits
    (number integer primary key, id text, repo text, parent text, title text, message text, author text, date text,
     files text, unique (repo, id));
create table if not exists xet (hash text primary key, sha256 text, size int, terms text);
create index if not exists by_content on xet (sha256);
"""


@dataclass(frozen=True)
class Token:
    """Who shows it, whether it may "write" or only "read", and the organisations that they are in."""

    user: str
    role: str = "write"
    orgs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repo:
    """A dataset repository; `gated` is "", "auto" or "manual", `quota` the bytes that it may hold."""

    name: str
    created: str
    private: bool = False
    gated: str = ""
    quota: int | None = None


@dataclass(frozen=True)
class File:
    """A file of a commit: its content, what git calls it, whether LFS keeps it, and the commit that brought it."""

    sha256: str
    size: int
    oid: str
    lfs: bool
    commit: str

    @classmethod
    def in_git(cls, sha256: str, data: bytes) -> "File":
        """A file that is new, and kept as it is."""
        return cls(sha256, len(data), git_oid(data), False, "")

    @classmethod
    def in_lfs(cls, sha256: str, size: int) -> "File":
        """A file that is new, and kept by LFS."""
        return cls(sha256, size, git_oid(pointer(sha256, size)), True, "")

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """The whole content of a repository at one moment."""

    files: Mapping[str, File]
    id: str
    parent: str
    title: str
    message: str
    author: str
    date: str


class Store:
    """The Hub that is kept in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root)
        self._db = sqlite3.connect(root / "hub.sqlite", isolation_level=None, timeout=30, check_same_thread=False)
        self._db.executescript(f"pragma journal_mode=wal; pragma synchronous=off; {SCHEMA}")
        self.secret = self._secret()

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside, or nothing; no other process writes in between."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    # Who

    def add_token(self, token: str, who: Token) -> None:
        self._db.execute(
            "insert or replace into tokens values (?, ?, ?, ?)", (token, who.user, who.role, " ".join(who.orgs))
        )

    def token(self, token: str) -> Token | None:
        row = self._db.execute("select user, role, orgs from tokens where token = ?", (token,)).fetchone()
        return row and Token(row[0], row[1], tuple(row[2].split()))

    # Repositories and their refs

    def create(self, name: str, private: bool = False) -> None:
        """A repository with what the Hub's first commit holds."""
        with self.transaction():
            self.insert_repo(name, private)
            first = File.in_git(self.blobs.add(ATTRIBUTES), ATTRIBUTES)
            self.insert_commit(name, "refs/heads/main", "initial commit", {".gitattributes": first})

    def insert_repo(self, name: str, private: bool = False) -> None:
        self._db.execute("insert into repos values (?, ?, ?, '', null)", (name, _now(), private))

    def repo(self, name: str) -> Repo | None:
        row = self._db.execute(
            "select name, created, private, gated, quota from repos where name = ?", (name,)
        ).fetchone()
        return row and Repo(row[0], row[1], bool(row[2]), row[3], row[4])

    def change(self, name: str, **settings: object) -> None:
        """Sets `private`, `gated` or `quota`."""
        for setting, value in settings.items():
            self._db.execute(f"update repos set {setting} = ? where name = ?", (value, name))

    def rename(self, name: str, other: str) -> None:
        """Moves a repository to a name that is free."""
        with self.transaction():
            self._db.execute("update repos set name = ? where name = ?", (other, name))
            for table in ("refs", "commits"):
                self._db.execute(f"update {table} set repo = ? where repo = ?", (other, name))

    def delete_repo(self, name: str) -> None:
        with self.transaction():
            self._db.execute("delete from repos where name = ?", (name,))
            self._db.execute("delete from refs where repo = ?", (name,))
            self._db.execute("delete from commits where repo = ?", (name,))

    def clear(self) -> None:
        """Deletes everything but the tokens."""
        with self.transaction():
            for table in ("repos", "refs", "commits", "xet"):
                self._db.execute(f"delete from {table}")
        self.blobs.clear()

    def refs(self, repo: str) -> dict[str, str]:
        """The commit of every ref, by its full name."""
        return dict(self._db.execute("select name, head from refs where repo = ? order by name", (repo,)))

    def set_ref(self, repo: str, name: str, commit: str) -> None:
        self._db.execute("insert or replace into refs values (?, ?, ?)", (repo, name, commit))

    def delete_ref(self, repo: str, name: str) -> None:
        self._db.execute("delete from refs where repo = ? and name = ?", (repo, name))

    def head(self, repo: str, revision: str) -> str | None:
        """The commit that a branch, a tag, a full ref or a commit names."""
        refs = self.refs(repo)
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in refs:
                return refs[name]
        found = self._db.execute("select id from commits where repo = ? and id = ?", (repo, revision))
        return next((str(row[0]) for row in found), None)

    # Commits

    def commit(self, repo: str, revision: str) -> Commit | None:
        row = self._db.execute(
            "select files, id, parent, title, message, author, date from commits where repo = ? and id = ?",
            (repo, self.head(repo, revision)),
        ).fetchone()
        return row and Commit({path: File(**file) for path, file in json.loads(row[0]).items()}, *row[1:])

    def insert_commit(
        self, repo: str, ref: str, title: str, files: Mapping[str, File], message: str = "", author: str = ""
    ) -> str:
        """Makes `files` the content of `ref`; those without a commit are brought by this one. Inside a transaction."""
        new, date = secrets.token_hex(20), _now()
        parent = self.refs(repo).get(ref, "")
        text = json.dumps({path: asdict(file) | {"commit": file.commit or new} for path, file in files.items()})
        self._db.execute(
            "insert into commits values (null, ?, ?, ?, ?, ?, ?, ?, ?)",
            (new, repo, parent, title, message, author or repo.partition("/")[0], date, text),
        )
        self.set_ref(repo, ref, new)
        return new

    def history(self, repo: str, commit: str) -> list[Commit]:
        """A commit and those before it, the last one first."""
        found = []
        while commit:
            there = self.commit(repo, commit)
            assert there is not None
            found.append(there)
            commit = there.parent
        return found

    def used(self, repo: str) -> int:
        """The bytes of all contents that any commit of the repository holds."""
        rows = self._db.execute("select files from commits where repo = ?", (repo,))
        return sum({file["sha256"]: file["size"] for row in rows for file in json.loads(row[0]).values()}.values())

    # Xet

    def add_xet(self, hash_: str, sha256: str, size: int, terms: list[list[object]]) -> None:
        self._db.execute("insert or replace into xet values (?, ?, ?, ?)", (hash_, sha256, size, json.dumps(terms)))

    def xet_hash(self, sha256: str) -> str | None:
        """What Xet calls a content that came by Xet."""
        found = self._db.execute("select hash from xet where sha256 = ?", (sha256,))
        return next((str(row[0]) for row in found), None)

    def xet_terms(self, hash_: str) -> tuple[int, list[list[object]]] | None:
        """The size of a file that came by Xet, and the pieces of xorbs that it is made of."""
        row = self._db.execute("select size, terms from xet where hash = ?", (hash_,)).fetchone()
        return row and (row[0], json.loads(row[1]))

    def _secret(self) -> bytes:
        """What signatures are made with, the same for every process that opens this store."""
        path = self.root / "secret"
        if not path.exists():
            aside = self.blobs.incoming()
            aside.write_bytes(secrets.token_bytes(32))
            aside.replace(path)
        return path.read_bytes()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
