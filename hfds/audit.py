"""Audit: rows of one split that say or show the same as rows of another, within a release and between releases."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hfds.earlier import lock_of, rows_of
from hfds.errors import ConfigError, MissingExtra, SourceMissing, nearest
from hfds.lock import release_names
from hfds.markdown import escape, table
from hfds.processor import Step
from hfds.record import printable
from hfds.run import Run
from processors.duplicates.alike import Alike
from processors.duplicates.columns import codes, take
from processors.duplicates.comparison import compare, present
from processors.embed import EmbedPrompt
from processors.hash_image import HashImage

CHECKS: dict[str, Alike] = {
    "prompt": Alike("prompt"),
    "image": Alike("image_hash"),
    "words": Alike("prompt", above=0.7),
    "picture": Alike("perceptual_hash", within=4),
    "meaning": Alike("prompt_embedding", above=0.85),
}
WORST = 20  # pairs of each check in a report
_SHOWN = ("prompt",)  # of the worst pairs, where there is one


@dataclass(frozen=True)
class Audit:
    """What was found: `leaks` has a row for each check and pair of places, `pairs` the worst pairs of each check.

    A row of the release that is like rows of several other places is counted once, where it is most like one.
    """

    release: str
    against: list[str]
    checked: list[dict[str, Any]]
    skipped: list[dict[str, str]]
    leaks: list[dict[str, Any]]
    pairs: list[dict[str, Any]]

    def write(self, path: Path) -> None:
        """The report, as JSON where the name ends so, else as Markdown."""
        text = json.dumps(vars(self), indent=2, ensure_ascii=False) if path.suffix == ".json" else self._markdown()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")

    def _markdown(self) -> str:
        parts = [f"# Leaks of {escape(self.release)}", f"Compared with itself and: {', '.join(self.against) or '-'}."]
        for title, rows in (
            ("Checks", self.checked), ("Not checked", self.skipped), ("Leaks", self.leaks), ("Worst pairs", self.pairs)
        ):  # fmt: skip
            cells = [[printable(str(cell)) for cell in row.values()] for row in rows]
            parts += [f"## {title}", table([*rows[0]], cells) if rows else "None."]
        return "\n\n".join(parts)


def find_leaks(
    dataset: str,
    name: str,
    run: Run,
    *,
    out: str | Path = "dist",
    against: Sequence[str] | None = None,
    checks: Mapping[str, Alike] | None = None,
    annotators: Sequence[Step] = (),
) -> Audit:
    """Compares the rows of every split of a release with those of all other splits, its own and those of `against`.

    Args:
        out: the folder that they were built in.
        against: releases of the same dataset; all others that are there when None.
        checks: what to compare, by name; `CHECKS` when None, of which those that cannot be made are skipped. With a
            release that lacks what is compared, the others are compared without it: both is `skipped`.
        annotators: make the columns that a release does not hold, such as the steps of the release itself.

    Raises:
        ConfigError: a release is not there; a check that was asked for cannot be made; no check can be made.
    """
    out = Path(out)
    lock_of(out, dataset, name)
    others = [one for one in release_names(out / dataset) if one != name] if against is None else list(against)
    others = [one for one in dict.fromkeys(others) if one != name]
    for one in others:
        lock_of(out, dataset, one)
    found = Audit(f"{dataset}/{name}", [f"{dataset}/{one}" for one in others], [], [], [], [])
    makers = (HashImage(), EmbedPrompt(), *annotators)  # the last that makes a column does so
    for check, alike in (CHECKS if checks is None else checks).items():
        tables: list[Dataset] = []
        for one in (name, *others):
            try:
                rows = rows_of(out, dataset, one, (*alike.columns, *_SHOWN), run, makers, _SHOWN)
                if tables and rows.features != tables[0].features:
                    raise ConfigError(f"its column {alike.of!r} is {rows.features[alike.of]}")
                tables.append(rows)
            except (ConfigError, MissingExtra, SourceMissing) as error:  # no such column, package or checkpoint
                if one == name and checks is not None:
                    raise
                found.skipped.append({"check": check, "release": f"{dataset}/{one}", "because": str(error)})
                if one == name:
                    break
        if tables:
            try:
                _check(found, check, alike, concatenate_datasets(tables), len(tables[0]), run)
            except MissingExtra as error:
                if checks is not None:
                    raise
                found.skipped.append({"check": check, "release": found.release, "because": str(error)})
    if not found.checked:
        reasons = "; ".join(f"{one['check']}: {one['because']}" for one in found.skipped)
        raise ConfigError(f"nothing of {found.release} could be checked: {reasons}")
    return found


def checks_of(names: Sequence[str]) -> dict[str, Alike]:
    """Checks by what was typed: "words", or with a limit of their own, "words=0.8".

    Raises:
        ConfigError: there is no such check, or it has no such limit.
    """
    found = {}
    for typed in names:
        name, _, limit = typed.partition("=")
        if name not in CHECKS:
            raise ConfigError(f"there is no check {name!r}: {nearest(name, CHECKS)}")
        alike = CHECKS[name]
        if limit:
            kind = "above" if alike.above is not None else "within" if alike.within is not None else None
            try:
                given = {kind: int(limit) if kind == "within" else float(limit)} if kind else {}
            except ValueError:
                given = {}
            if not given:
                raise ConfigError(f"check {name!r} takes {'a number' if kind else 'no limit'}, got {limit!r}")
            alike = Alike(alike.of, **given, words=alike.words)  # type: ignore[arg-type]
        if problems := alike.problems():
            raise ConfigError(*(f"check {name!r}: {problem}" for problem in problems))
        found[name] = alike
    return found


def _check(found: Audit, check: str, alike: Alike, table: Dataset, mine: int, run: Run) -> None:
    """Adds what one check finds in `table`, the first `mine` rows of which are those of the release."""
    there = present(table, alike)
    splits, split = codes(table, "split")
    rows, partners, similarity = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for number in range(len(splits)):
        asked = np.flatnonzero(there[:mine] & (split[:mine] == number))
        held = np.flatnonzero(there & (split != number))
        order = np.concatenate([held, asked])
        verdicts = compare(table, alike, order, run.device).keep_first(len(held), among=False)
        hits = np.flatnonzero(verdicts.partner >= 0)
        rows.append(order[hits])
        partners.append(order[verdicts.partner[hits]])
        similarity.append(verdicts.similarity[hits])
    found.checked.append({"check": check, "column": alike.of, "limit": alike.limit, "rows": int(there.sum())})
    leaks = _Leaks(check, table, np.concatenate(rows), np.concatenate(partners), np.concatenate(similarity))
    found.leaks.extend(leaks.counted())
    found.pairs.extend(leaks.worst())


@dataclass(frozen=True)
class _Leaks:
    """Rows of a table that are like rows of other splits, with these and how similar they are: (leaks,) each."""

    check: str
    table: Dataset
    rows: np.ndarray
    partners: np.ndarray
    similarity: np.ndarray

    def counted(self) -> list[dict[str, Any]]:
        """A row for each pair of places, the most rows first."""
        mine, theirs = self._texts("split", self.rows), self._places()
        counts = Counter(zip(mine, theirs, strict=True))
        worst: dict[tuple[str, str], float] = {}
        for place, value in zip(zip(mine, theirs, strict=True), self.similarity.tolist(), strict=True):
            worst[place] = max(worst.get(place, 0), value)
        return [
            {"check": self.check, "split": one, "like": other, "rows": count, "highest": round(worst[one, other], 6)}
            for (one, other), count in counts.most_common()
        ]

    def worst(self) -> list[dict[str, Any]]:
        """The most similar pairs."""
        order = np.argsort(-self.similarity, kind="stable")[:WORST]
        some = _Leaks(self.check, self.table, self.rows[order], self.partners[order], self.similarity[order])
        columns = {
            "id": some._texts("id", some.rows),
            "split": some._texts("split", some.rows),
            "partner": some._texts("id", some.partners),
            "partner_in": some._places(),
            "prompt": some._texts("prompt", some.rows),
            "partner_prompt": some._texts("prompt", some.partners),
        }
        return [
            {"check": self.check, "similarity": round(value, 6), **dict(zip(columns, values, strict=True))}
            for value, *values in zip(some.similarity.tolist(), *columns.values(), strict=True)
        ]

    def _texts(self, column: str, positions: np.ndarray) -> list[Any]:
        unique, back = np.unique(positions, return_inverse=True)
        texts = take(self.table, column, unique).to_pylist()
        return [texts[number] for number in back.tolist()]

    def _places(self) -> list[str]:
        places = zip(self._texts("release", self.partners), self._texts("split", self.partners), strict=True)
        return [f"{release}:{split}" for release, split in places]
