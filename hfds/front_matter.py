"""Front matter: what the Hub and `datasets` read of a card, from locks and from `cards/`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from datasets import Features

from hfds.words import Words, front_and_body

Locks = Mapping[str, Mapping[str, Any]]
LEDGER = "-ledger"  # behind the name of a release, the config of its ledger
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")  # the shape of the Hub's identifiers: SPDX in lower case
_OURS = ("configs", "dataset_info", "license", "size_categories")  # keys that `cards/` does not decide


def front_matter(locks: Locks, words: Words) -> dict[str, Any]:
    """That of a dataset with these releases, oldest first; the newest is the default config."""
    named = {name.lower() for lock in locks.values() for name in lock["licenses"]}
    licenses = sorted({name if _LICENSE.fullmatch(name) else "other" for name in named})
    said = {key: value for key, value in words.meta.items() if key not in _OURS}
    return {
        **said,
        "tags": list(dict.fromkeys(["hfds", *_listed(said.get("tags"))])),
        **({"license": licenses if len(licenses) > 1 else licenses[0]} if licenses else {}),
        **({"size_categories": [_size([*locks.values()][-1])]} if locks else {}),
        "configs": _configs(locks),
        "dataset_info": [_info(name, lock) for name, lock in locks.items()],
    }


def merged_front(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter `new` with what else is in `old`: other keys, other tags, and other configs, behind those of
    releases, with their `dataset_info`. Configs of releases that are gone are none of these."""
    names = {config["config_name"] for config in new["configs"]}
    listed = [config for config in _listed(old.get("configs")) if isinstance(config, dict)]
    other = [one for one in listed if one.get("config_name") not in names and not _of_release(one)]
    kept = [{key: value for key, value in config.items() if key != "default"} for config in other]
    names |= {config.get("config_name") for config in listed if _of_release(config)}
    infos = [one for one in _listed(old.get("dataset_info")) if one.get("config_name", "default") not in names]
    return {
        **old,
        **new,
        "tags": list(dict.fromkeys([*_listed(old.get("tags")), *new["tags"]])),
        "configs": [*new["configs"], *kept],
        "dataset_info": [*new["dataset_info"], *infos],
    }


def nothing_yet(card: str, release: str) -> str:
    """The card with one config more, that of the release's ledger, which is not there yet; "" where it has configs.

    Raises:
        ConfigError: its front matter is no YAML mapping.
    """
    meta, body = front_and_body(card)
    if meta.get("configs"):
        return ""
    config = {"config_name": f"{release}{LEDGER}", "data_files": f"ledger/{release}.parquet"}
    return f"{as_text({**meta, 'configs': [config]})}{body}"


def as_text(meta: Mapping[str, Any]) -> str:
    """A front matter between its marks; keys without anything are left out."""
    there = {key: value for key, value in meta.items() if value not in (None, [], {})}
    text = yaml.safe_dump(there, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n" if there else ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _of_release(config: Mapping[str, Any]) -> bool:
    """Whether a config is one that we wrote, of a release or of its ledger."""
    name, files = str(config.get("config_name")), config.get("data_files")
    if isinstance(files, list):
        paths = [file.get("path") for file in files if isinstance(file, dict)]
        return bool(paths) and all(str(path).startswith(f"data/{name}/") for path in paths)
    return name.endswith(LEDGER) and files == f"ledger/{name.removesuffix(LEDGER)}.parquet"


def _configs(locks: Locks) -> list[dict[str, Any]]:
    configs = [config_of(lock) for lock in locks.values()]
    for config in configs[-1:]:
        config["default"] = True
    for name, lock in locks.items():
        ledger = {"description": f"sha256 {lock['ledger']['sha256']}", "data_files": lock["ledger"]["path"]}
        configs.append({"config_name": f"{name}{LEDGER}", **ledger})
    return configs


def config_of(lock: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a release."""
    name = lock["release"]
    paths = [{"split": split, "path": f"data/{name}/{split}-*.parquet"} for split in lock["splits"]]
    # The cache of `datasets` knows a local folder by its card alone, and has old rows for one that was built again.
    return {"config_name": name, "description": f"digest {lock['digest']}", "data_files": paths}


def _info(name: str, lock: Mapping[str, Any]) -> dict[str, Any]:
    """What `datasets` would have to read shards for; all bytes are those of the Parquet files."""
    total = sum(split["bytes"] for split in lock["splits"].values())
    return {
        "config_name": name,
        "features": Features.from_dict(lock["columns"])._to_yaml_list(),
        "splits": [
            {"name": split, "num_bytes": entry["bytes"], "num_examples": entry["rows"]}
            for split, entry in lock["splits"].items()
        ],
        "download_size": total,
        "dataset_size": total,
    }


def _size(lock: Mapping[str, Any]) -> str:
    """The Hub's name for so many rows."""
    rows = sum(split["rows"] for split in lock["splits"].values())
    names: Sequence[str] = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    if rows < 1000:
        return "n<1K"
    power = len(str(rows)) - 4  # 0 from a thousand rows on
    return f"{names[power]}<n<{names[power + 1]}" if power + 1 < len(names) else "n>1T"
