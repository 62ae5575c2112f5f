"""The card of a built dataset: numbers from its locks, words from `cards/`. Never half of either by hand."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml

from hfds.errors import ConfigError
from hfds.lock import read_locks
from hfds.markdown import escape, size, table

BEGIN, END = "<!-- hfds: written by a build or a push, down to the next mark -->", "<!-- hfds: end -->"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")  # the shape of the Hub's identifiers: SPDX in lower case


def write_card(home: Path) -> None:
    """Writes `README.md` of a built dataset's folder from the locks in it; the newest release is the default config.
    Without any lock there is no card."""
    locks = read_locks(home)
    if not locks:
        (home / "README.md").unlink(missing_ok=True)
        return
    aside = home / "README.md.part"
    aside.write_text(render(locks), encoding="utf-8")
    aside.rename(home / "README.md")


def render(locks: Mapping[str, Mapping[str, Any]]) -> str:
    """The card of a dataset with these releases, oldest first."""
    newest = [*locks.values()][-1]
    words = _words(newest["dataset"])
    body = Template(_words("release")).substitute(
        dataset=newest["dataset"],
        words=words.strip(),
        releases="\n\n".join(_release(lock) for lock in reversed([*locks.values()])),
        newest=newest["release"],
    )
    return f"---\n{_front_matter(locks)}---\n\n{BEGIN}\n\n{body.strip()}\n\n{END}\n"


def merged(old: str, locks: Mapping[str, Mapping[str, Any]]) -> str:
    """The card `old` with these releases: what is between the marks is written anew, what is beside them stays.

    Other configs stay, too, behind those of the releases, and so do other keys of the front matter.

    Raises:
        ConfigError: the front matter of `old` is no YAML mapping.
    """
    new = render(locks)
    before, told = _parts(old)
    ours, body = _parts(new)
    names = {config["config_name"] for config in ours["configs"]}
    theirs = [config for config in before.get("configs", []) if config.get("config_name") not in names]
    kept = [{name: value for name, value in config.items() if name != "default"} for config in theirs]
    meta = {**before, **ours, "configs": [*ours["configs"], *kept]}
    above, found, rest = told.partition(BEGIN)
    below = rest.partition(END)[2]
    text = f"{above}{body.strip()}{below}" if found else f"{told.strip()}\n\n{body.strip()}\n"
    return f"---\n{yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)}---\n\n{text.strip()}\n"


def _parts(card: str) -> tuple[dict[str, Any], str]:
    """The front matter of a card, and what is below it."""
    found = re.fullmatch(r"(?:---\r?\n(.*?\r?\n)?---[ \t]*(?:\r?\n|$))?(.*)", card, re.DOTALL)
    assert found is not None  # everything is optional
    try:
        meta = yaml.safe_load(found[1] or "") or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"the front matter of the card is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(meta, dict):
        raise ConfigError(f"the front matter of the card must be a mapping, got {type(meta).__name__}")
    return meta, found[2]


def _words(name: str) -> str:
    path = files("cards") / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _front_matter(locks: Mapping[str, Mapping[str, Any]]) -> str:
    configs: list[dict[str, Any]] = []
    for name, lock in locks.items():
        paths = [{"split": split, "path": f"data/{name}/{split}-*.parquet"} for split in lock["splits"]]
        # The cache of `datasets` knows a local folder by its card alone, and has old rows for one that was built again.
        configs.append({"config_name": name, "description": f"digest {lock['digest']}", "data_files": paths})
    configs[-1]["default"] = True
    for name, lock in locks.items():
        ledger = {"description": f"sha256 {lock['ledger']['sha256']}", "data_files": lock["ledger"]["path"]}
        configs.append({"config_name": f"{name}-ledger", **ledger})
    named = {name.lower() for lock in locks.values() for name in lock["licenses"]}
    licenses = sorted({name if _LICENSE.fullmatch(name) else "other" for name in named})
    meta: dict[str, Any] = {"configs": configs}
    if licenses:
        meta["license"] = licenses if len(licenses) > 1 else licenses[0]
    return str(yaml.safe_dump(meta, sort_keys=False, allow_unicode=True))


def _release(lock: Mapping[str, Any]) -> str:
    """The section of one release."""
    splits = [
        [name, f"{split['rows']:,}", size(split["bytes"]), str(len(split["shards"]))]
        for name, split in lock["splits"].items()
    ]
    licenses = [[name, f"{rows:,}"] for name, rows in lock["licenses"].items()]
    steps = [[step["name"], ", ".join(f"{k}={v!r}" for k, v in step["parameters"].items())] for step in lock["steps"]]
    parts = [
        f"## {escape(lock['release'])}",
        escape(lock["description"]),
        *{
            f"**A try**: at most {s['limit']:,} rows of every split were read."
            for s in lock["sources"]
            if s.get("limit")
        },
        table(["split", "rows", "size", "shards"], splits),
        "What happened to every row:",
        table(["input", "rows", "dropped", "kept"], funnel_rows(lock["funnel"])),
        table(["step", "parameters"], steps) if steps else "",
        table(["licence", "rows"], licenses),
        table(["source", "revision", "licence", "files"], [_source(source) for source in lock["sources"]]),
        f"Digest `{lock['digest']}`; every file and parameter is in `releases/{lock['release']}.lock.json`, the fate of"
        f" every row in the config `{lock['release']}-ledger`.",
    ]
    return "\n\n".join(part for part in parts if part)


def funnel_rows(funnel: list[dict[str, Any]]) -> list[list[str]]:
    """The funnel as table rows: input, rows in, dropped by reason, kept by split."""
    return [
        [
            entry["input"],
            f"{entry['rows']:,}",
            ", ".join(f"{drop['reason']} {drop['rows']:,}" for drop in entry["dropped"]) or "-",
            ", ".join(f"{split} {rows:,}" for split, rows in entry["kept"].items()) or "-",
        ]
        for entry in funnel
    ]


def _source(source: Mapping[str, Any]) -> list[str]:
    revision = source["revision"] or "local files"
    return [source["input"], revision, source["license"], f"{len(source['files']):,}"]
