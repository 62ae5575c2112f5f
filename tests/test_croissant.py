"""Croissant: what the locks say and nothing else, read by mlcroissant where that is installed."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, ClassLabel, Dataset, Features, Image, Json, LargeList, List, Value
from fixtures import dalle3

from builders.dalle3 import Dalle3
from hfds.croissant import croissant
from hfds.lock import read_locks
from hfds.release import Input, Release, build
from hfds.run import Run
from processors.split import Split

COLUMNS = ("id", "image", "prompt", "captions", "generation", "extra", "width", "license")
V1 = Release("pictures", "v1", (Input(Dalle3),), (Split(0.5),), columns=COLUMNS)
V2 = V1.but("v2-a", steps=(Split(0.4, seed=1),))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(rdflib|mlcroissant)")  # by mlcroissant 1.1.1
HOSTILE = '"}], "@id": "x", <script>alert(1)</script> \\ \n \u2028 {"@type": "sc:Dataset"} http://e/ %20'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases of eight pictures, in two splits, with their document."""
    folder = tmp_path_factory.mktemp("croissant")
    dalle3.clean(folder / "sources/dalle3")
    for release in (V1, V2):
        built = build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
        assert set(built.lock["splits"]) == {"train", "validation"}
    write(croissant(read_locks(built.folder)), built.folder)
    return built.folder


def write(document: dict[str, Any], folder: Path) -> Path:
    path = folder / "croissant.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def lock(**changes: Any) -> dict[str, Any]:
    shard = {"path": "data/v1/train-00000-of-00001.parquet", "rows": 2, "bytes": 3, "sha256": "a" * 64}
    source = {"input": "a/b", "repo": "o/a", "revision": "c" * 40, "license": "MIT AND mine", "homepage": "http://a"}
    return {
        "dataset": "pictures",
        "release": "v1",
        "description": "",
        "digest": "d" * 64,
        "columns": Features({"id": Value("string")}).to_dict(),
        "splits": {"train": {"rows": 2, "bytes": 3, "shards": [shard]}},
        "ledger": {"path": "ledger/v1.parquet", "sha256": "e" * 64},
        "licenses": {"MIT": 1, "unknown": 1},
        "sources": [source],
        **changes,
    }


def fields(document: dict[str, Any], release: str) -> dict[str, dict[str, Any]]:
    """The fields of a release, and those inside, by @id."""

    def below(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for field in found:
            yield field
            yield from below(field.get("subField", []))

    records = next(part for part in document["recordSet"] if part["@id"] == release)
    return {field["@id"]: field for field in below(records["field"])}


def kind(feature: Any) -> tuple[str | None, str | None]:
    """The data type and the shape that a column of this feature gets."""
    field = fields(croissant({"v1": lock(columns=Features({"x": feature}).to_dict())}), "v1")["v1/x"]
    assert field.get("isArray", False) == ("arrayShape" in field)
    return field.get("dataType"), field.get("arrayShape")


def test_every_file_has_its_sha256_and_size(home: Path) -> None:
    files = [file for file in croissant(read_locks(home))["distribution"] if file["@type"] == "cr:FileObject"]
    assert {file["contentUrl"] for file in files} == {
        path.relative_to(home).as_posix() for path in home.rglob("*.parquet")
    }
    for file in files:
        data = (home / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest()
        assert file.get("contentSize", f"{len(data)} B") == f"{len(data)} B"


def test_every_column_has_a_field_and_nothing_else_has(home: Path) -> None:
    document = croissant(read_locks(home))
    schema = pq.read_schema(next(home.glob("data/v1/train-*")))
    found = fields(document, "v1")
    assert {id_ for id_ in found if id_.count("/") == 1} == {"v1/split", *(f"v1/{name}" for name in schema.names)}
    assert [found[f"v1/captions/{part}"]["dataType"] for part in ("style", "text")] == ["sc:Text"] * 2
    assert found["v1/captions"]["arrayShape"] == "-1"
    assert found["v1/generation/seed"]["dataType"] == "sc:Integer"
    assert found["v1/image"]["source"]["transform"] == {"jsonPath": "bytes"}
    vocabulary = {"sc", "prov", *document["@context"]}
    assert {key.split(":")[0] for key in keys(document)} <= vocabulary | SCHEMA_ORG


SCHEMA_ORG = {
    "@context", "@id", "@type", "contentSize", "contentUrl", "description", "distribution", "encodingFormat", "license",
    "name", "sameAs", "sha256", "url", "version",
}  # fmt: skip


def keys(value: Any) -> Iterator[str]:
    """Every key in a document, but for those of its context and of data that is embedded."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in ("@context", "data"):
                yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_types_and_shapes() -> None:
    assert kind(Value("bool")) == ("sc:Boolean", None)
    assert kind(Value("uint8")) == kind(ClassLabel(names=["a"])) == ("sc:Integer", None)
    assert kind(Value("float32")) == ("sc:Float", None)
    assert kind(Value("timestamp[us]")) == ("sc:DateTime", None)
    assert kind(Value("time32[s]")) == ("sc:Time", None)
    assert kind(Value("date32")) == ("sc:Date", None)
    assert kind(Value("large_string")) == kind(Json()) == ("sc:Text", None)
    assert kind(List(Value("float32"), length=768)) == ("sc:Float", "768")
    assert kind(LargeList(List(Value("int64")))) == ("sc:Integer", "-1,-1")
    assert kind(Array2D((None, 4), "float32")) == ("sc:Float", "-1,4")
    assert kind(List(Image())) == ("sc:ImageObject", "-1")
    inside = {"boxes": List({"a b": Value("int8")})}
    found = fields(croissant({"v1": lock(columns=Features({"x": inside}).to_dict())}), "v1")
    assert found["v1/x/boxes/a%20b"]["source"]["transform"] == {"jsonPath": "boxes[*].'a b'"}


RUNS = {"size": List(Value("int32"), 2), "counts": Value("string")}
BOX = List(Value("float32"), 4)


def test_boxes_and_masks() -> None:
    inside = List({"name": Value("string"), "box": BOX, "mask": RUNS, "mask_score": Value("float32")})
    columns = Features({"bbox": List(Value("float64"), 4), "mask": Value("string"), "entities": inside}).to_dict()
    found = fields(croissant({"v1": lock(columns=columns)}), "v1")
    types = {id_: field.get("dataType") for id_, field in found.items()}
    box, mask = ["sc:Float", "cr:BoundingBox"], ["sc:Text", "cr:SegmentationMask"]
    assert types == {
        "v1/split": "sc:Text",
        "v1/bbox": box,
        "v1/mask": mask,
        "v1/entities": None,
        "v1/entities/name": "sc:Text",
        "v1/entities/box": box,
        "v1/entities/mask": "cr:SegmentationMask",
        "v1/entities/mask/size": "sc:Integer",
        "v1/entities/mask/counts": "sc:Text",
        "v1/entities/mask_score": "sc:Float",
    }
    assert [id_ for id_, field in found.items() if field.get("source", {}).get("format") == "REL_XYXY"] == [
        "v1/bbox",
        "v1/entities/box",
    ]
    assert (found["v1/bbox"]["arrayShape"], found["v1/entities/box"]["arrayShape"]) == ("4", "4")
    others = {"box": List(Value("int32"), 4), "bbox": List(Value("float32")), "mask": List(Value("string")), "x": BOX}
    plain = fields(croissant({"v1": lock(columns=Features(others).to_dict())}), "v1")
    assert not any(isinstance(field.get("dataType"), list) for field in plain.values())
    assert not any("format" in field["source"] for field in plain.values())


def test_mlcroissant_reads_boxes_and_masks(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    inside = {"name": Value("string"), "box": BOX, "mask": RUNS, "mask_score": Value("float32")}
    features = Features({"id": Value("string"), "bbox": BOX, "mask": Value("string"), "entities": List(inside)})
    runs = {"size": [2, 3], "counts": "06"}
    cat = {"name": "cat", "box": [0, 0.25, 0.5, 1], "mask": runs, "mask_score": 0.5}
    rows = [
        {"id": "1", "bbox": [0, 0, 0.5, 1], "mask": "06", "entities": [cat, {**cat, "box": None}]},
        {"id": "2", "bbox": None, "mask": None, "entities": []},
        {"id": "3", "bbox": None, "mask": None, "entities": None},
    ]
    path = tmp_path / "data/v1/train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(path)
    dataset = mlcroissant.Dataset(jsonld=write(croissant({"v1": lock(columns=features.to_dict())}), tmp_path))
    assert not dataset.metadata.ctx.issues.errors
    read = {field.id: field for field in dataset.metadata.ctx.graph.nodes if hasattr(field, "data_types")}
    assert str(read["v1/bbox"].source.format) == "REL_XYXY"
    assert "http://mlcommons.org/croissant/BoundingBox" in map(str, read["v1/entities/box"].data_types)
    assert "http://mlcommons.org/croissant/SegmentationMask" in map(str, read["v1/entities/mask"].data_types)
    one, two, three = dataset.records("v1")
    assert (one["v1/bbox"], one["v1/mask"]) == ([0, 0, 0.5, 1], b"06")
    assert [entity["v1/entities/box"] for entity in one["v1/entities"]] == [[0, 0.25, 0.5, 1], None]
    assert one["v1/entities/mask"]["v1/entities/mask/counts"] == [b"06", b"06"]
    assert two["v1/bbox"] is two["v1/mask"] is three["v1/bbox"] is None


def test_what_is_said_of_the_dataset() -> None:
    document = croissant({"v1": lock(), "v4-a": lock(release="v4-a", description="Newer.")}, repo="org/pictures")
    assert document["license"] == [
        "https://spdx.org/licenses/MIT.html",
        {"@type": "sc:CreativeWork", "name": "unknown"},
    ]
    assert document["description"] == "Newer."
    assert document["version"].startswith("4.0.0+a.")
    assert croissant({"demo2": lock(release="demo2")})["version"].startswith("0.0.0+demo2.")
    assert document["version"] != croissant({"v4-a": lock(release="v4-a")})["version"], "another set of releases"
    (source,) = document["prov:wasDerivedFrom"]
    assert (source["version"], source["url"]) == ("c" * 40, "http://a")
    assert source["sameAs"] == f"https://huggingface.co/datasets/o/a/tree/{'c' * 40}"
    assert all(part["prov:wasDerivedFrom"] == [{"@id": source["@id"]}] for part in document["recordSet"][1::2])
    assert document["recordSet"][0]["data"] == [{"splits/v1/name": "train", "splits/v1/url": "cr:TrainingSplit"}]
    assert fields(document, "v1")["v1/split"]["references"] == {"field": {"@id": "splits/v1/name"}}
    at = "https://huggingface.co/datasets/org/pictures/resolve/v1/data/v1/train-00000-of-00001.parquet"
    assert at in [file.get("contentUrl") for file in document["distribution"]]


def hostile() -> dict[str, Any]:
    columns = Features({HOSTILE: {HOSTILE: List(Value("string"))}, "@id": Value("string")}).to_dict()
    source = {"input": HOSTILE, "repo": HOSTILE, "revision": HOSTILE, "license": HOSTILE, "homepage": HOSTILE}
    splits = {"other": lock()["splits"]["train"]}
    return lock(description=HOSTILE, splits=splits, columns=columns, licenses={HOSTILE: 2}, sources=[source])


def test_hostile_names_are_nothing_but_strings() -> None:
    document = croissant({"v1": hostile()})
    assert json.loads(json.dumps(document)) == document
    assert set(keys(document)) == set(keys(croissant({"v1": lock(columns=hostile()["columns"])})))
    ids = [
        part["@id"] for part in (*document["distribution"], *document["recordSet"], *fields(document, "v1").values())
    ]
    assert len(set(ids)) == len(ids)
    assert not any(set(' "<>\\\n') & set(id_) for id_ in ids)


def test_mlcroissant_finds_nothing_wrong(home: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    for document in (
        croissant(read_locks(home)),
        croissant(read_locks(home), repo="org/pictures"),
        croissant({"v1": hostile()}),
    ):
        issues = mlcroissant.Dataset(jsonld=document).metadata.ctx.issues
        assert not issues.errors
        assert "@base" not in croissant({"v1": lock()})["@context"], "what one reader wrote, the next must not get"
        assert [warning.split('"')[1] for warning in issues.warnings] == ["https://schema.org/datePublished"]


@pytest.mark.parametrize("repo", [None, "org/pictures"])
def test_mlcroissant_reads_the_rows(home: Path, repo: str | None) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    place = write(croissant(read_locks(home), repo), home)
    dataset = mlcroissant.Dataset(jsonld=place, mapping=repo and {"repository": home})
    for name in ("v1", "v2-a"):
        read = {row[f"{name}/id"].decode(): row for row in dataset.records(name)}
        want = {
            row["id"]: (split, row)
            for split in ("train", "validation")
            for row in pq.read_table(next(home.glob(f"data/{name}/{split}-*"))).to_pylist()
        }
        assert set(read) == set(want)
        for id_, (split, row) in want.items():
            got = {key.removeprefix(f"{name}/"): value for key, value in read[id_].items()}
            assert got["split"].decode() == split
            assert got["prompt"] == (row["prompt"] and row["prompt"].encode())
            assert got["width"] == row["width"]
            assert json.loads(got["extra"]) == json.loads(row["extra"])
            assert got["image"].tobytes() == PIL.Image.open(io.BytesIO(row["image"]["bytes"])).tobytes()
            texts = [caption[f"{name}/captions/text"].decode() for caption in got["captions"]]
            assert texts == [caption["text"] for caption in row["captions"]]


def test_mlcroissant_reads_one_split(home: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    place = write(croissant(read_locks(home)), home)
    rows = [*mlcroissant.Dataset(jsonld=place).records("v2-a", {"v2-a/split": "validation"})]
    assert len(rows) == read_locks(home)["v2-a"]["splits"]["validation"]["rows"]


def test_mlcroissant_reads_structs_and_lists(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    inside = {"seed": Value("int64"), "sizes": List(Value("int32")), "of": {"a b": Value("string")}}
    features = Features({"id": Value("string"), "made": inside, "near": List(Value("float32"), 2)})
    row = {"made": {"seed": 2**60 + 1, "sizes": [1, 2], "of": {"a b": "x"}}, "near": [0.5, 1]}
    path = tmp_path / "data/v1/train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    Dataset.from_list([{"id": "1", **row}, {"id": "2", **row}], features=features).to_parquet(path)
    place = write(croissant({"v1": lock(columns=features.to_dict())}), tmp_path)
    _, got = mlcroissant.Dataset(jsonld=place).records("v1")
    assert (got["v1/id"], got["v1/near"]) == (b"2", row["near"])
    assert got["v1/made"] == {"v1/made/seed": 2**60 + 1, "v1/made/sizes": [1, 2]}
    assert got["v1/made/of"] == {"v1/made/of/a%20b": b"x"}
