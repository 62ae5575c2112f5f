"""The card of a built dataset: numbers from its locks, words from `cards/`. Never half of either by hand."""

import json
import re
from collections.abc import Mapping
from string import Template
from typing import Any

from hfds.changelog import Diff
from hfds.errors import ConfigError
from hfds.front_matter import LEDGER, Locks, as_text, front_matter, merged_front
from hfds.markdown import code, escape, fenced
from hfds.sections import HUB, in_full, rows_of, summary
from hfds.words import front_and_body, template, words_of

BEGIN, END = "<!-- hfds: written by a build or a push, down to the next mark -->", "<!-- hfds: end -->"
_MARKS = re.compile(rf"^({BEGIN}|{END})[ \t\r]*$", re.MULTILINE)  # lines of their own
Changes = Mapping[str, Mapping[str, Any]]


def render(locks: Locks, changes: Changes | None = None, withdrawn: int = 0, repo: str | None = None) -> str:
    """The card of a dataset with these releases, oldest first.

    Args:
        changes: what changed from the release before, by release, as `hfds.changelog.Diff.entry` says it.
        withdrawn: rows that were withdrawn.
        repo: "org/name" on the Hub, for the examples.
    """
    words = words_of([*locks.values()][-1]["dataset"])
    return (
        f"{as_text(front_matter(locks, words))}\n{BEGIN}\n\n{_body(locks, changes or {}, withdrawn, repo)}\n\n{END}\n"
    )


def merged(
    old: str,
    locks: Locks,
    changes: Changes | None = None,
    withdrawn: int = 0,
    repo: str | None = None,
    where: str = "the card",
) -> str:
    """The card `old` with these releases: what is between the marks is written anew, what is beside them stays.

    Other configs stay, too, behind those of the releases, and so do other keys of the front matter, and tags. Without
    any release there is nothing between the marks.

    Args:
        where: which card `old` is, for messages; the others are those of `render`.

    Raises:
        ConfigError: the front matter of `old` is no YAML mapping, one of its configs has a name that we need, or one of
            the two marks is missing.
    """
    before, told = front_and_body(old, where)
    words = words_of([*locks.values()][-1]["dataset"] if locks else "")
    body = _body(locks, changes or {}, withdrawn, repo) if locks else ""
    ours = f"{BEGIN}\n\n{body}\n\n{END}"
    marks = [*_MARKS.finditer(told)]
    if [mark[1] for mark in marks] not in ([], [BEGIN, END]):
        raise ConfigError(
            f"{where} must have the lines {BEGIN!r} and {END!r} once each, in this order, around what hfds wrote, and "
            "everything else outside: put back the mark that is missing, or take the other one out"
        )
    text = f"{told[: marks[0].start()]}{ours}{told[marks[1].end() :]}" if marks else f"{told.strip()}\n\n{ours}"
    return f"{as_text(merged_front(before, front_matter(locks, words), where))}\n{text.strip()}\n"


def _body(locks: Locks, changes: Changes, withdrawn: int, repo: str | None) -> str:
    newest = [*locks.values()][-1]
    words = words_of(newest["dataset"])
    said = words.meta.get("pretty_name")
    text = Template(template()).substitute(
        title=escape(str(said) if said else newest["dataset"]),
        about=words.about,
        status=_status(locks, withdrawn),
        loading=_loading(newest, repo),
        newest=f"## {escape(newest['release'])}\n\n{_about(newest)}\n\n{in_full(newest)}",
        sections=words.sections,
        changelog=_changelog(locks, changes),
        older=_older(locks),
        citation=_citation(newest, str(said) if said else newest["dataset"], repo),
    )
    return "\n\n".join(part for part in text.strip().split("\n\n") if part.strip())


def _status(locks: Locks, withdrawn: int) -> str:
    newest = [*locks.values()][-1]
    count = f"{len(locks)} releases; the newest and default is" if len(locks) > 1 else "One release:"
    text = (
        f"{count} **{escape(newest['release'])}** with {rows_of(newest):,} rows. Built with hfds: every row of every "
        "source is either in a split or in the release's ledger with the step and the reason that dropped it."
    )
    if not withdrawn:
        return text
    gone = f"**{withdrawn:,} {'row was' if withdrawn == 1 else 'rows were'} withdrawn** after publication"
    return (
        f"{text}\n\n{gone}; `withdrawn.jsonl` says which and why. Releases from then on are without them, and hfds "
        "skips them in older ones."
    )


def _loading(lock: Mapping[str, Any], repo: str | None) -> str:
    """How to get at the rows. Names are written as Python has them, as they may be anything."""
    name, ledger, split = lock["release"], lock["release"] + LEDGER, next(iter(lock["splits"]))
    at = repo or f"org/{lock['dataset']}"
    python = f"""
from datasets import load_dataset

repo = {_literal(at)}{"" if repo else "  # or the path of this folder, which has no revision"}
rows = load_dataset(repo, {_literal(name)}, revision={_literal(name)})  # the tag, which never moves
rows = load_dataset(repo, {_literal(name)}, split={_literal(split)}, streaming=True)  # nothing is downloaded before
fate = load_dataset(repo, {_literal(ledger)}, split="train")  # what happened to every row of every source
"""
    return "\n\n".join(
        (
            fenced(python.strip(), "python"),
            f"Whether every byte is still what was built, by {code(f'releases/{name}.lock.json')}:",
            fenced(" ".join(f"hfds verify {at} {name}".split()), "sh"),
        )
    )


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _about(lock: Mapping[str, Any]) -> str:
    return "\n\n".join(part for part in (escape(lock["description"]), summary(lock)) if part)


def _older(locks: Locks) -> str:
    """The releases before the newest in short, that last."""
    older = [*locks.values()][-2::-1]
    return "\n\n".join(f"## {escape(lock['release'])}\n\n{_about(lock)}" for lock in older)


def _changelog(locks: Locks, changes: Changes) -> str:
    lines = []
    for name in reversed([*locks]):
        found = Diff.of(changes[name]) if name in changes else None
        what = f"after {escape(found.old)}, {escape(found.headline())}" if found else f"{rows_of(locks[name]):,} rows"
        lines.append(f"- **{escape(name)}** {what}")
    more = ["", "[CHANGELOG.md](CHANGELOG.md) says which rows these are, and why."] if changes else []
    return "\n".join([*lines, *more])


def _citation(lock: Mapping[str, Any], title: str, repo: str | None) -> str:
    fields = {
        "title": f"{{{_tex(title)}}}, release {_tex(lock['release'])}",
        **({"howpublished": f"\\url{{{HUB}{repo}}}"} if repo else {}),
        "note": f"digest {_tex(lock['digest'])}",
    }
    inside = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    key = re.sub(r"[^0-9A-Za-z]", "-", f"{lock['dataset']}-{lock['release']}")
    return fenced(f"@misc{{{key},\n{inside}\n}}", "bibtex")


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _tex(text: str) -> str:
    """A text as TeX prints it."""
    line = " ".join(text.split())
    return "".join(_TEX.get(letter, f"\\{letter}" if letter in "{}%&#_$" else letter) for letter in line)
