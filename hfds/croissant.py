"""Croissant 1.1: a built dataset as machine-readable metadata, from its locks alone and without a clock.

Follows http://mlcommons.org/croissant/1.1 as mlcroissant 1.1.1 reads it: every shard with its sha256, every release a
record set with its splits, every source an entity that the dataset was derived from.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from datasets import Features, Image, LargeList, List, Value
from huggingface_hub import constants, hf_hub_url

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{
        term: f"cr:{term}"
        for term in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
            "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
            "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
            "separator", "source", "subField", "transform",
        )
    },
}  # fmt: skip
PARQUET = "application/x-parquet"
BOX, MASK = "cr:BoundingBox", "cr:SegmentationMask"
REPOSITORY = "repository"  # the @id of the repository as a whole
_SPDX = re.compile(r"MIT|Apache-2\.0|BSD-[23]-Clause|CC0-1\.0|CC-BY(-NC)?(-SA|-ND)?-(1\.0|2\.0|2\.5|3\.0|4\.0)")
_VERSION = re.compile(r"v?0*(\d+)(?:\.0*(\d+))?(?:\.0*(\d+))?(.*)")
_TYPES = {
    "bool": "sc:Boolean",
    "date": "sc:Date",
    "float": "sc:Float",
    "int": "sc:Integer",
    "timestamp": "sc:DateTime",
    "time": "sc:Time",
}  # by what their names in Arrow begin with
_KINDS = {"train": "cr:TrainingSplit", "validation": "cr:ValidationSplit", "test": "cr:TestSplit"}


def croissant(locks: Mapping[str, Mapping[str, Any]], repo: str | None = None) -> dict[str, Any]:
    """The Croissant document, a JSON-LD object, of a dataset with these releases, oldest first.

    It lies in the dataset's folder: shards are relative to that. No lock says when a release was published, or by whom,
    so neither does this.

    Args:
        repo: "org/name" on the Hub. Shards are then addresses at the release's tag.
    """
    newest = [*locks.values()][-1]
    sources = dict.fromkeys(_entity(source) for lock in locks.values() for source in lock["sources"])
    entities = {entity: f"sources/{n}" for n, entity in enumerate(sources)}
    url = f"{constants.ENDPOINT}/datasets/{repo}"
    return {
        "@context": {**CONTEXT},  # mlcroissant writes into it
        "@type": "sc:Dataset",
        "name": newest["dataset"],
        "description": newest["description"] or f"{newest['dataset']}, release {newest['release']}.",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "citeAs": f"{newest['dataset']}, release {newest['release']}, digest {newest['digest']}",
        "isLiveDataset": False,
        "license": [_license(name) for name in sorted({name for lock in locks.values() for name in lock["licenses"]})],
        "version": _version(newest["release"], [lock["digest"] for lock in locks.values()]),
        **({} if repo is None else {"url": url}),
        "prov:wasDerivedFrom": [_provenance(id_, entity) for entity, id_ in entities.items()],
        "distribution": [
            *([] if repo is None else [_repository(url)]),
            *(file for lock in locks.values() for file in _files(lock, repo)),
        ],
        "recordSet": [part for lock in locks.values() for part in (_splits(lock), _records(lock, entities))],
    }


def _version(name: str, digests: Sequence[str]) -> str:
    """Semantic Versioning 2.0.0 of a release's name: "4.0.0+a.0123456789ab" of v4-a, "0.0.0+demo.0123456789ab" of demo.

    What no version number can say is build metadata, and so is what the releases are.
    """
    found = _VERSION.fullmatch(name)
    numbers, rest = ([found[n] or "0" for n in (1, 2, 3)], found[4]) if found else (["0"] * 3, name)
    rest = re.sub(r"[^0-9A-Za-z]+", "-", rest).strip("-")
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:12]
    return f"{'.'.join(numbers)}+{rest + '.' if rest else ''}{digest}"


def _license(name: str) -> str | dict[str, str]:
    """The address of a licence where it is known, else its name."""
    if _SPDX.fullmatch(name):
        return f"https://spdx.org/licenses/{name}.html"
    return {"@type": "sc:CreativeWork", "name": name}


def _entity(source: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells one source from another: input, repository, revision, licence, homepage."""
    return tuple(source[part] or "" for part in ("input", "repo", "revision", "license", "homepage"))


def _provenance(id_: str, entity: tuple[str, ...]) -> dict[str, Any]:
    name, repo, revision, license_, homepage = entity
    at = f"{constants.ENDPOINT}/datasets/{quote(repo)}"
    said = {
        "url": homepage,
        "sameAs": repo and (f"{at}/tree/{quote(revision)}" if revision else at),
        "version": revision,
        "license": [_license(part) for part in license_.split(" AND ")] if license_ else [],
    }
    return {"@id": id_, "@type": "prov:Entity", "name": name, **{key: value for key, value in said.items() if value}}


def _repository(url: str) -> dict[str, str]:
    # A repository has no sha256, and mlcroissant wants one: this is what the Hub says in its own documents.
    return {
        "@type": "cr:FileObject",
        "@id": REPOSITORY,
        "name": REPOSITORY,
        "contentUrl": url,
        "encodingFormat": "git+https",
        "sha256": "https://github.com/mlcommons/croissant/issues/80",
    }


def _files(lock: Mapping[str, Any], repo: str | None) -> Iterator[dict[str, Any]]:
    """The shards of a release, its ledger, and all shards as a set."""
    name = lock["release"]
    for shard in (shard for split in lock["splits"].values() for shard in split["shards"]):
        yield {**_file(shard, name, repo), "contentSize": f"{shard['bytes']} B"}
    yield {**_file(lock["ledger"], name, repo), "description": "The fate of every row of every source."}
    yield {
        "@type": "cr:FileSet",
        "@id": f"files/{name}",
        "name": f"files/{name}",
        "encodingFormat": PARQUET,
        "includes": [f"data/{name}/{split}-*.parquet" for split in lock["splits"]],
        **({} if repo is None else {"containedIn": {"@id": REPOSITORY}}),
    }


def _file(file: Mapping[str, Any], name: str, repo: str | None) -> dict[str, Any]:
    path = file["path"]
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path.rpartition("/")[2],
        "contentUrl": path if repo is None else hf_hub_url(repo, path, repo_type="dataset", revision=name),
        "encodingFormat": PARQUET,
        "sha256": file["sha256"],
    }


def _splits(lock: Mapping[str, Any]) -> dict[str, Any]:
    """The splits of a release, with what each is for where its name says that."""
    id_ = f"splits/{lock['release']}"
    rows = [{f"{id_}/name": split, f"{id_}/url": _KINDS.get(split)} for split in lock["splits"]]
    return {
        "@type": "cr:RecordSet",
        "@id": id_,
        "name": id_,
        "dataType": "cr:Split",
        "key": {"@id": f"{id_}/name"},
        "field": [
            {"@type": "cr:Field", "@id": f"{id_}/name", "name": "name", "dataType": "sc:Text"},
            {"@type": "cr:Field", "@id": f"{id_}/url", "name": "url", "dataType": "sc:URL"},
        ],
        "data": rows,
    }


def _records(lock: Mapping[str, Any], entities: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """The rows of a release: a field for each column, and the split."""
    name = lock["release"]
    columns = Features.from_dict(lock["columns"])
    files = {"fileSet": {"@id": f"files/{name}"}}
    rows = ", ".join(f"{split['rows']:,} rows in {part}" for part, split in lock["splits"].items())
    of_split = {
        **files,
        "extract": {"fileProperty": "fullpath"},
        "transform": {"regex": rf"^data/{re.escape(name)}/({'|'.join(map(re.escape, lock['splits']))})-.+\.parquet$"},
    }
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": " ".join([lock["description"], f"{rows}; digest {lock['digest']}."]).strip(),
        **({"key": {"@id": f"{name}/id"}} if "id" in columns else {}),
        "prov:wasDerivedFrom": [{"@id": id_} for id_ in dict.fromkeys(entities[_entity(s)] for s in lock["sources"])],
        "field": [
            {
                **_named(f"{name}/split", "split"),
                "dataType": "sc:Text",
                "source": of_split,
                "references": {"field": {"@id": f"splits/{name}/name"}},
            },
            *(_column(name, column, feature, files) for column, feature in columns.items()),
        ],
    }


def _column(release: str, name: str, feature: Any, files: Mapping[str, Any]) -> dict[str, Any]:
    """The field of a column."""
    shape, inner = _unlisted(feature)
    source = {**files, "extract": {"column": name}}
    return _field(_inside(release, name), name, shape, inner, source, ())


def _field(
    id_: str, name: str, shape: tuple[int, ...], feature: Any, source: Mapping[str, Any], path: tuple[str, ...]
) -> dict[str, Any]:
    """A field, with those of its members inside.

    Args:
        shape: of the lists that `feature` is in; -1 where lengths differ.
        path: of its value inside that of its column, as JSONPath; inside its members, where the column is a list.
    """
    said = _named(id_, name)
    if shape:
        said |= {"isArray": True, "arrayShape": ",".join(map(str, shape))}
    means = _means(name, shape, feature)
    if means == BOX:
        said["description"] = "Left, top, right and bottom, from 0 to 1 of the picture's width and height."
        source = {**source, "format": "REL_XYXY"}
    if isinstance(feature, dict):
        said |= {"dataType": means} if means else {}
        members = ((member, *_unlisted(inner)) for member, inner in feature.items())
        return said | {
            "subField": [
                _field(_inside(id_, member), member, within, inner, source, (*path, _step(member, within, inner)))
                for member, within, inner in members
            ]
        }
    path = (*path, "bytes") if isinstance(feature, Image) else path
    step = {"transform": {"jsonPath": ".".join(path)}} if path else {}
    type_ = _type(feature)
    return said | {"dataType": [type_, means] if means else type_, "source": {**source, **step}}


def _means(name: str, shape: tuple[int, ...], feature: Any) -> str | None:
    """What Croissant calls a field of this name and type: a `box` or `bbox` of four floats, or a `mask` that is a text
    or COCO's run lengths {size, counts}."""
    if name in ("box", "bbox") and shape == (4,) and _type(feature) == "sc:Float":
        return BOX
    if name == "mask" and not shape:
        runs = isinstance(feature, dict) and {*feature} == {"size", "counts"}
        return MASK if runs or str(getattr(feature, "dtype", "")) in ("string", "large_string") else None
    return None


def _inside(id_: str, name: str) -> str:
    """The @id of what has this name, whatever is in it, inside of something else."""
    return f"{id_}/{quote(name, safe='')}"


def _named(id_: str, name: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": id_, "name": name}


def _unlisted(feature: Any) -> tuple[tuple[int, ...], Any]:
    """The shape of the lists that a feature is made of, and what is in them."""
    if isinstance(feature, (List, LargeList)):
        shape, inner = _unlisted(feature.feature)
        return (getattr(feature, "length", -1), *shape), inner
    if hasattr(feature, "shape"):  # Array2D to Array5D
        return tuple(-1 if size is None else size for size in feature.shape), Value(feature.dtype)
    return (), feature


def _type(feature: Any) -> str:
    """The data type of the values of a feature that holds no other; what Croissant has no type for is text."""
    if isinstance(feature, Image):
        return "sc:ImageObject"
    dtype = str(getattr(feature, "dtype", "")).lstrip("u")  # "float32", "uint8", "timestamp[us]"
    return next((type_ for kind, type_ in _TYPES.items() if dtype.startswith(kind)), "sc:Text")


def _step(name: str, shape: tuple[int, ...], feature: Any) -> str:
    """A member of an object as JSONPath has it: itself, or its own members where there is more to come."""
    name = name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else "'" + re.sub(r"(['\\])", r"\\\1", name) + "'"
    return name + "[*]" * len(shape) if isinstance(feature, (dict, Image)) else name
