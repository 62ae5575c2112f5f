"""Front matter: what the Hub and `datasets` read of a card, from locks and from `cards/`."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from datasets import Features

from hfds.errors import ConfigError
from hfds.words import Words, front_and_body

Locks = Mapping[str, Mapping[str, Any]]
LEDGER = "-ledger"  # behind the name of a release, the config of its ledger
# All that the Hub takes for a licence: https://huggingface.co/docs/hub/repositories-licenses, of August 2026.
LICENSES = frozenset(
    (
        "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
        "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
        "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m",
        "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2",
        "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community",
        "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3",
        "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl",
        "odc-by", "ofl-1.1", "openmdw-1.0", "openmdw-1.1", "openrail", "openrail++", "osl-3.0", "other", "pddl",
        "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
    )
)  # fmt: skip
_MARKS = ("digest ", "sha256 ")  # how what we write into the description of a config begins
_OURS = ("configs", "dataset_info", "license", "size_categories")  # keys that `cards/` does not decide


def front_matter(locks: Locks, words: Words) -> dict[str, Any]:
    """That of a dataset with these releases, oldest first; the newest is the default config."""
    named = {name.lower() for lock in locks.values() for name in lock["licenses"]}
    licenses = sorted({name if name in LICENSES else "other" for name in named})
    said = {key: value for key, value in words.meta.items() if key not in _OURS}
    return {
        **said,
        "tags": list(dict.fromkeys(["hfds", *_listed(said.get("tags"))])),
        **({"license": licenses if len(licenses) > 1 else licenses[0]} if licenses else {}),
        **({"size_categories": [_size([*locks.values()][-1])]} if locks else {}),
        "configs": _configs(locks),
        "dataset_info": [_info(name, lock) for name, lock in locks.items()],
    }


def merged_front(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "the card") -> dict[str, Any]:
    """The front matter `new` with what else is in `old`: other keys, other tags, and other configs, behind those of
    releases, with their `dataset_info`. Configs of releases that are gone are none of these.

    Args:
        where: which card `old` is of, for messages.

    Raises:
        ConfigError: somebody else's config has the name of one of ours, or what is to be kept is not in its usual form.
    """
    configs, infos, tags = _parts(old, where)
    names = {config["config_name"] for config in new["configs"]}
    other = [config for config in configs if not _is_ours(config)]
    for config in other:
        if config["config_name"] in names:
            raise ConfigError(
                f"{where} has a config {config['config_name']!r} that hfds did not write, and a release needs that "
                "name: give the config another one there, or the release"
            )
    kept = [{key: value for key, value in config.items() if key != "default"} for config in other]
    names |= {config["config_name"] for config in configs if _is_ours(config)}
    return {
        **old,
        **new,
        "tags": list(dict.fromkeys([*tags, *new["tags"]])),
        "configs": [*new["configs"], *kept],
        "dataset_info": [
            *new["dataset_info"],
            *(one for one in infos if one.get("config_name", "default") not in names),
        ],
    }


def _parts(meta: Mapping[str, Any], where: str) -> tuple[list[Any], list[Any], list[Any]]:
    """The configs, `dataset_info` and tags of a front matter.

    Raises:
        ConfigError: one of them has another form than the Hub reads.
    """
    configs, infos, tags = (_listed(meta.get(key)) for key in ("configs", "dataset_info", "tags"))
    forms = {
        "configs": ("mappings with a text config_name", [_named(one, None) for one in configs]),
        "dataset_info": ("a mapping, or mappings with a text config_name", [_named(one, "default") for one in infos]),
        "tags": ("texts", [not isinstance(tag, (dict, list)) for tag in tags]),
    }
    for key, (form, found) in forms.items():
        if not all(found):
            raise ConfigError(f"{key} in the front matter of {where} must be {form}: mend it there")
    return configs, infos, tags


def _named(value: Any, default: str | None) -> bool:
    return isinstance(value, dict) and isinstance(value.get("config_name", default), str)


def nothing_yet(card: str, release: str) -> str:
    """The card with one config more, that of the release's ledger, which is not there yet; "" where it has configs.

    Raises:
        ConfigError: its front matter is no YAML mapping.
    """
    meta, body = front_and_body(card)
    if meta.get("configs"):
        return ""
    said = {"description": "sha256 is not known yet", "data_files": f"ledger/{release}.parquet"}
    config = {"config_name": f"{release}{LEDGER}", **said}
    return f"{as_text({**meta, 'configs': [config]})}{body}"


def as_text(meta: Mapping[str, Any]) -> str:
    """A front matter between its marks; keys without anything are left out."""
    there = {key: value for key, value in meta.items() if value not in (None, [], {})}
    text = yaml.safe_dump(there, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n" if there else ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_ours(config: Mapping[str, Any]) -> bool:
    """Whether a config is one that we wrote, of a release or of its ledger."""
    name, files, mark = config["config_name"], config.get("data_files"), str(config.get("description"))
    if not mark.startswith(_MARKS):
        return False
    if isinstance(files, list):
        paths = [file.get("path") for file in files if isinstance(file, dict)]
        return bool(paths) and all(str(path).startswith(f"data/{name}/") for path in paths)
    return bool(name.endswith(LEDGER) and files == f"ledger/{name.removesuffix(LEDGER)}.parquet")


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


def default_in(card: str) -> str | None:
    """The config that a card makes the default one, or its only one."""
    configs = [one for one in _listed(front_and_body(card)[0].get("configs")) if isinstance(one, dict)]
    found = next((one for one in configs if one.get("default")), configs[0] if len(configs) == 1 else {})
    return str(found["config_name"]) if found.get("config_name") else None


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
