"""Sections: what a card says of one release, as Markdown, from its lock alone."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from datasets import Features, Image, Json, LargeList, List

from hfds.markdown import code, escape, link, size, table, written
from hfds.record import MEANINGS

HUB = "https://huggingface.co/datasets/"
Lock = Mapping[str, Any]
PARAMETERS = 200  # characters of what a step was given
VALUES = 8  # of a category that are named
KEYS = ("url", "image_hash", "source_revision", "perceptual_hash", "generation.seed")  # of which no mean says anything
UNITS = {"width": "pixels", "height": "pixels", "megapixels": "10⁶ pixels", "aspect": "width / height"}
SHOWN = {"min": "min", "5 %": "5%", "median": "50%", "95 %": "95%", "max": "max", "mean": "mean"}


def rows_of(lock: Lock) -> int:
    """How many rows a release has."""
    return sum(split["rows"] for split in lock["splits"].values())


def summary(lock: Lock) -> str:
    """Its splits, its size and its digest, in a sentence or two."""
    splits = ", ".join(f"{escape(name)} {split['rows']:,}" for name, split in lock["splits"].items())
    total = size(sum(split["bytes"] for split in lock["splits"].values()))
    tried = [source["limit"] for source in lock["sources"] if source.get("limit")]
    few = f"\n\n**A try**: at most {max(tried):,} rows of every split were read." if tried else ""
    return f"{rows_of(lock):,} rows ({splits}), {total}. Digest {code(lock['digest'])}.{few}"


def in_full(lock: Lock) -> str:
    """Everything that a lock says of a release, but for its files."""
    parts = {
        "What happened to every row": _funnel(lock),
        "Splits": _splits(lock),
        "Columns": _columns(lock),
        "Statistics": _statistics(lock),
        "Licences": _licenses(lock),
        "Sources": _sources(lock),
        "Written by language models": _written(lock),
        "Steps": _steps(lock),
    }
    return "\n\n".join(f"### {title}\n\n{part}" for title, part in parts.items() if part)


def _funnel(lock: Lock) -> str:
    """What came in, what each step dropped and why, and what is left, input by input."""
    order = {step["name"]: number for number, step in reversed([*enumerate(lock["steps"])])}
    dropped = {(one["step"], one["reason"]): Counter[str]() for entry in lock["funnel"] for one in entry["dropped"]}
    for entry in lock["funnel"]:
        for one in entry["dropped"]:
            dropped[one["step"], one["reason"]][entry["input"]] += one["rows"]
    inputs = [entry["input"] for entry in lock["funnel"]]

    def line(step: str, reason: str, counts: Mapping[str, int], sign: str = "") -> list[str]:
        numbers = [counts[name] for name in inputs]
        total = [sum(numbers)] if len(inputs) > 1 else []
        return [step, reason, *(f"{sign}{number:,}" if number else "" for number in [*numbers, *total])]

    rows = [line("read", "", {entry["input"]: entry["rows"] for entry in lock["funnel"]})]
    made = {entry["input"]: entry.get("made", {}) for entry in lock["funnel"]}
    for step in sorted(
        {step for steps in made.values() for step in steps}, key=lambda step: (order.get(step, -1), step)
    ):
        rows.append(line(step, "made of others", {name: steps.get(step, 0) for name, steps in made.items()}, "+"))
    for step, reason in sorted(dropped, key=lambda key: (order.get(key[0], -1), -dropped[key].total(), key)):
        rows.append(line(step, reason, dropped[step, reason], "−"))
    for split in lock["splits"]:
        rows.append(line("kept", split, {entry["input"]: entry["kept"].get(split, 0) for entry in lock["funnel"]}))
    return table(["step", "reason", *inputs, *(["all"] if len(inputs) > 1 else [])], rows)


def _splits(lock: Lock) -> str:
    rows = [
        [name, f"{split['rows']:,}", size(split["bytes"]), f"{len(split['shards']):,}"]
        for name, split in lock["splits"].items()
    ]
    return table(["split", "rows", "size", "shards"], rows)


def _columns(lock: Lock) -> str:
    """Each column, and each field of one, with its type, its share of nulls, its meaning and what made it."""
    made_by, rows, said = lock.get("made_by", {}), [], lock.get("statistics", {})
    nulls = {**said.get("nulls", {}), **{name: one["nulls"] for name, one in said.get("columns", {}).items()}}
    fields = [*Features.from_dict(lock["columns"]).items()]
    for name, feature in fields:  # to which those of structs are added behind their column
        maker = made_by.get(name, {})
        null = _share(nulls[name]) if name in nulls else "not measured"
        rows.append([name, _type(feature), null, maker.get("means") or MEANINGS.get(name, ""), maker.get("step", "")])
        if isinstance(feature, dict):
            at = len(rows)
            fields[at:at] = [(f"{name}.{field}", inner) for field, inner in feature.items()]
    return table(["column", "type", "null", "what it is", "made by"], rows)


def _type(feature: Any) -> str:
    if isinstance(feature, dict):
        return "struct"
    if isinstance(feature, (List, LargeList)):
        inside = feature.feature
        length = getattr(feature, "length", -1)
        kind = f"{{{', '.join(inside)}}}" if isinstance(inside, dict) else _type(inside)
        return f"{length} × {kind}" if length > 0 else f"list of {kind}"
    if isinstance(feature, Image):
        return "picture"
    return "JSON" if isinstance(feature, Json) else str(getattr(feature, "dtype", type(feature).__name__))


def _statistics(lock: Lock) -> str:
    """What was measured, drawn and in numbers."""
    if not (known := lock.get("statistics")):
        return ""
    lengths = {name: "characters" for name, one in known["columns"].items() if one["of"] == "length"}
    leaves = {**known["columns"], **{n: one for n, one in known["pictures"].items() if n not in known["columns"]}}
    numbers = [
        [name, {**lengths, **UNITS}.get(name, ""), *(_number(one[each]) for each in SHOWN.values())]
        for name, one in leaves.items()
        if name not in KEYS and "counts" not in one and "mean" in one
    ]
    values = [[name, _most(one["counts"])] for name, one in leaves.items() if one.get("counts")]
    name, drawn = escape(lock["release"]), f"plots/{quote(lock['release'], safe='')}.png"
    parts = [
        f"![Histograms of {name}: lengths, sizes and scores, and its rows by source]({drawn})",
        table(["", "in", *SHOWN], numbers) if numbers else "",
        table(["", "values, with their rows"], values) if values else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _share(share: float) -> str:
    if not share:
        return ""
    if share == 1:
        return "100 %"
    return "< 0.1 %" if share < 0.001 else "> 99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f} %"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 1000 else f"{number:.4g}"


def _most(counts: Mapping[str, int]) -> str:
    few = [f"{name[:60]} {rows:,}" for name, rows in [*counts.items()][:VALUES]]
    return ", ".join(few) + (f", and {len(counts) - VALUES} more" if len(counts) > VALUES else "")


def _licenses(lock: Lock) -> str:
    total = rows_of(lock)
    rows = [[name, f"{rows:,}", _share(rows / total)] for name, rows in lock["licenses"].items()]
    told = "The column `license` has that of each row.\n\n" if "license" in lock["columns"] else ""
    return told + table(["licence", "rows", "share"], rows)


def _sources(lock: Lock) -> str:
    """Where the rows are from: each input's licence, revision, home and whom to cite."""
    rows, cited = [], [source["citation"] for source in lock["sources"] if source.get("citation")]
    for source in lock["sources"]:
        repo, revision, home = source.get("repo"), source["revision"], source.get("homepage", "")
        at = f"{HUB}{repo}/tree/{revision}"
        found = link(f"{repo}@{str(revision)[:10]}", at) if repo and revision else escape(revision or "local files")
        site = link(home.partition("://")[2].partition("/")[0] or home, home)
        rows.append([escape(source["input"]), found, site, escape(source["license"]), f"{len(source['files']):,}"])
    cite = "\n".join(f"- {escape(citation)}" for citation in dict.fromkeys(cited))
    told = written(["source", "revision", "homepage", "licence", "files"], rows)
    return f"{told}\n\nThe sources ask to be cited:\n\n{cite}" if cited else told


def _written(lock: Lock) -> str:
    """What was asked of language models for new rows, and what that took."""
    rows = []
    for source in (source for source in lock["sources"] if "written" in source):
        one = source["written"]
        ends = "as many as were wanted" if one["kept"] >= one["wanted"] else "too little of what came was new"
        numbers = [f"{one[name]:,}" for name in ("requests", "prompt_tokens", "completion_tokens", "cost", "kept")]
        rows.append([escape(source["input"]), escape(", ".join(one["models"])), *numbers, ends])
    titles = ["input", "model", "requests", "tokens read", "tokens written", "cost", "new prompts", "ended with"]
    return written(titles, rows) if rows else ""


def _steps(lock: Lock) -> str:
    """The steps in order, with what is not switched off of their parameters."""
    lines = []
    for step in lock["steps"]:
        given = [(name, value) for name, value in step["parameters"].items() if value not in (None, "", [], {})]
        named = (name if value is True else f"{name}={value!r}" for name, value in given if value is not False)
        said = escape(", ".join(named), PARAMETERS)
        lines.append(f"1. **{escape(step['name'])}** {said}".rstrip())
    return "\n".join(lines)
