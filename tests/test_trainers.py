"""Trainers' formats: each read back by the rules of whom it is for, every row accounted for, killed at every rename."""

import hashlib
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from fixtures import scenes
from fixtures.consumers import check_backends, rows_of, simpletuner

from builders.laion import Laion
from hfds import entities
from hfds.cli import app
from hfds.disk import alone
from hfds.errors import ConfigError
from hfds.place import Place
from hfds.trainers.coco import Coco
from hfds.trainers.csv import Csv
from hfds.trainers.emu3 import Emu3
from hfds.trainers.files import Files
from hfds.trainers.folder import Beside, Format, export
from hfds.trainers.imagefolder import ImageFolder
from hfds.trainers.rows import BLOCK, Batch, blocks
from hfds.trainers.simpletuner import SimpleTuner
from hfds.withdrawn import Tombstone, write_withdrawn

ROWS = 40
FORMATS: tuple[Format, ...] = (SimpleTuner(), SimpleTuner(True), ImageFolder(), Coco(), Emu3(), Files(), Csv())
SPLITS = ("train", "validation")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """scenes v1: 40 rows in two splits."""
    return scenes.built(tmp_path_factory.mktemp("scenes"), ROWS)


def tree(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def with_picture(row: dict[str, Any]) -> bool:
    return row["image"] is not None


def numbered(file: str) -> int:
    """The row of a picture's file."""
    return int(Path(file).stem)


# SimpleTuner, by its documentation


@pytest.mark.parametrize("text_files", [False, True])
@pytest.mark.parametrize("caption", ["prompt", "all"])
def test_simpletuner_finds_every_picture_with_its_caption(
    place: Place, tmp_path: Path, text_files: bool, caption: str
) -> None:
    done = export(SimpleTuner(text_files), place, tmp_path, caption=caption)
    config = json.loads((tmp_path / "multidatabackend.json").read_text())
    check_backends(config)
    assert [one["dataset_type"] for one in config] == ["image", "eval", "text_embeds"]
    for split in SPLITS:
        rows, samples = rows_of(place, split), simpletuner(config, split)
        said = [
            [row["prompt"]] if caption == "prompt"
            else [*dict.fromkeys([row["prompt"], *(one["text"] for one in row["captions"])])]
            for row in rows
        ]  # fmt: skip
        texts = [[text for text in one if text and text.strip()] for one in said]
        wanted = [number for number, row in enumerate(rows) if with_picture(row) and texts[number]]
        assert [numbered(str(sample.path)) for sample in samples] == wanted
        lined = text_files and caption == "all"  # a line is a caption there
        assert [sample.captions for sample in samples] == [
            [text.replace("\n", " ") if lined else text for text in texts[number]] for number in wanted
        ]
        for sample, number in zip(samples, wanted, strict=True):
            assert sample.path.read_bytes() == rows[number]["image"]["bytes"]
            with PIL.Image.open(sample.path) as image:
                turned = image.getexif().get(0x0112) == 6
                assert sample.size == (image.size[::-1] if turned else image.size), "as it is shown"
        left_out = done["splits"][split]["left_out"]
        assert sum(left_out.values()) + len(wanted) == len(rows)
        noted = done["splits"][split]["noted"].get("line_break_made_a_blank", 0)
        assert noted == (sum("\n" in text for number in wanted for text in texts[number]) if lined else 0)


def test_simpletuner_has_boxes_and_masks(place: Place, tmp_path: Path) -> None:
    done = export(SimpleTuner(), place, tmp_path)
    config = json.loads((tmp_path / "multidatabackend.json").read_text())
    masks = 0
    for split in SPLITS:
        rows, counted = rows_of(place, split), {"entity_without_name": 0, "bad_box": 0, "bad_mask": 0}
        for sample in simpletuner(config, split):
            assert json.loads(sample.path.with_suffix(".bbox").read_text()) == sample.boxes
            row = rows[numbered(str(sample.path))]
            names = [one["name"] for one in row["entities"] or ()]
            bad = len(names) == 7
            assert [box["label"] for box in sample.boxes] == [
                one for one in names if one not in (None, "flat", "not a number")
            ]
            counted = {key: value + bad * (1 + (key != "entity_without_name")) for key, value in counted.items()}
            for box in sample.boxes:
                left, top, right, bottom = box["bbox"]
                assert 0 <= left < right <= 1
                assert 0 <= top < bottom <= 1
                if "mask" in box:
                    masks += 1
                    mask = (sample.path.parent / box["mask"]).resolve()
                    assert mask.is_relative_to(tmp_path / f"{split}-masks")
                    blob = scenes.blob(*sample.size, scenes.number_of(row["id"]))
                    assert (np.asarray(PIL.Image.open(mask)) == blob * 255).all()
        assert {key: value for key, value in counted.items() if value} == done["splits"][split]["noted"]
    assert masks > 10


# Image folder, with `datasets` itself


def test_datasets_reads_an_image_folder(place: Place, tmp_path: Path) -> None:
    export(ImageFolder(), place, tmp_path / "out")
    found = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(found) == list(SPLITS)
    for split in SPLITS:
        assert found[split].column_names[:2] == ["image", "text"], "diffusers takes the second where none is named"
        wanted = {row["id"]: row for row in rows_of(place, split) if with_picture(row) and row["prompt"]}
        rows = found[split].with_format("arrow")[:].to_pylist()
        assert {row["id"]: row["text"] for row in rows} == {id_: row["prompt"] for id_, row in wanted.items()}
        for row in rows:
            assert Path(row["image"]["path"]).read_bytes() == wanted[row["id"]]["image"]["bytes"]
        assert found[split][0]["image"].size


def test_an_image_folder_has_the_column_asked_for_and_lists(place: Place, tmp_path: Path) -> None:
    export(ImageFolder("prompt"), place, tmp_path / "out", caption="all", splits=["validation"])
    found = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["validation"]
    assert all(isinstance(one, list) and one for one in found["prompt"]), "diffusers draws one of them each time"
    lines = (tmp_path / "out/validation/metadata.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["prompt"] for line in lines] == sorted(found["prompt"], key=[*found["prompt"]].index)


@pytest.mark.parametrize("name", ["file_name", "id", "mask_file_name", "../text", ""])
def test_a_column_of_captions_has_a_name_that_means_nothing_else(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        ImageFolder(name)


# COCO, by the description of its format


def decoded(segmentation: dict[str, Any]) -> np.ndarray:
    """The mask of run lengths: down the columns, nothing first."""
    runs = entities.decode(segmentation["counts"])
    height, width = segmentation["size"]
    return np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T.astype(bool)


def test_coco_has_pictures_captions_boxes_and_masks(place: Place, tmp_path: Path) -> None:
    export(Coco(), place, tmp_path)
    names = {}
    for split in SPLITS:
        rows = rows_of(place, split)
        captions = json.loads((tmp_path / f"annotations/captions_{split}.json").read_text())
        instances = json.loads((tmp_path / f"annotations/instances_{split}.json").read_text())
        assert captions["images"] == instances["images"]
        images = {image["id"]: image for image in instances["images"]}
        assert [*images] == [number for number, row in enumerate(rows) if with_picture(row)]
        licenses = {one["id"]: one["name"] for one in instances["licenses"]}
        for number, image in images.items():
            assert (tmp_path / split / image["file_name"]).read_bytes() == rows[number]["image"]["bytes"]
            assert licenses[image["license"]] == rows[number]["license"]
        said = {one["image_id"]: one["caption"] for one in captions["annotations"]}
        assert said == {number: rows[number]["prompt"] for number in images if rows[number]["prompt"]}
        assert [one["id"] for one in instances["annotations"]] == [*range(1, len(instances["annotations"]) + 1)]
        names |= (categories := {one["id"]: one["name"] for one in instances["categories"]})
        assert categories == names, "the same in every split"
        for one in instances["annotations"]:
            image, entity = images[one["image_id"]], rows[one["image_id"]]["entities"]
            x, y, width, height = one["bbox"]
            assert min(x, y, image["width"] - x - width, image["height"] - y - height) >= 0
            assert categories[one["category_id"]] in [other["name"] for other in entity]
            if "segmentation" in one:
                assert one["segmentation"]["size"] == [image["height"], image["width"]]
                assert one["bbox"] == [image["width"] / 4, image["height"] / 4, image["width"] / 4, image["height"] / 4]
                mask = decoded(one["segmentation"])
                blob = scenes.blob(image["width"], image["height"], scenes.number_of(rows[one["image_id"]]["id"]))
                assert (mask == blob).all()
                assert one["area"] == mask.sum()
            else:
                assert one["area"] == pytest.approx(width * height)


def test_run_lengths_are_those_of_cocos_own_tools() -> None:
    mask = np.zeros((6, 9), bool)
    mask[1:3, 2:5] = mask[4, 8] = True
    text = "=24000e0OXO"  # what pycocotools 2 makes of it
    assert scenes.rle(mask) == text
    assert (decoded({"size": [6, 9], "counts": text}) == mask).all()
    runs = {"size": [6, 9], "counts": entities.decode(text).tolist()}
    found = entities.read([{"name": "a", "box": [0, 0, 1, 1], "mask": runs}], 9, 6, noted := {})  # type: ignore[arg-type]
    assert (found[0].mask, found[0].pixels, noted) == (runs, 7, {})


# Emu3, by what its prepare_data.py does


def test_emu3_opens_every_picture_under_a_name_of_its_own(place: Place, tmp_path: Path) -> None:
    export(Emu3(), place, tmp_path)
    names: list[str] = []
    for split in SPLITS:
        rows = rows_of(place, split)
        entries = json.loads((tmp_path / f"{split}.json").read_text())
        for entry in entries:
            assert set(entry) == {"name", "text", "image"}
            row = rows[numbered(entry["image"])]
            assert entry["text"] == row["prompt"]
            assert Path(entry["image"]).read_bytes() == row["image"]["bytes"]
            PIL.Image.open(entry["image"]).convert("RGB")
        names += [entry["name"] for entry in entries]
        assert len(entries) == sum(with_picture(row) and bool(row["prompt"]) for row in rows)
    assert len(set(names)) == len(names), "a name is a file's"
    assert all(Path(name).name == name for name in names)


# Files, by the reader for img2dataset's that is here already


def test_files_are_read_as_img2datasets(place: Place, tmp_path: Path) -> None:
    export(Files(), place, tmp_path / "out", caption="short")
    for split in SPLITS:
        rows = rows_of(place, split)
        builder = Laion("img2dataset", data_dir=tmp_path / "out" / split, cache_dir=tmp_path / "cache")
        builder.download_and_prepare()
        found = {row["url"]: row for row in builder.as_dataset("train").with_format("arrow")[:].to_pylist()}
        assert len(found) == len(rows)
        for number, row in enumerate(rows):
            other = found[row["url"]]
            short = [one["text"] for one in row["captions"] if one["style"] == "short_caption"]
            text = (short or [row["prompt"]])[0]
            if not with_picture(row):
                assert other["dropped"]["reason"] == "failed_to_download"
                continue
            assert other["dropped"] is None
            assert other["prompt"] == text
            assert (other["width"], other["height"]) == (64, 48), "as stored"
            key = tmp_path / "out" / split / f"00000/{number:09d}"
            assert key.with_suffix(".txt").read_bytes().decode() == (text or "")
            said = json.loads(key.with_suffix(".json").read_text())
            assert said["key"] == key.name
            assert {name: said[name] for name in ("id", "url", "text", "=1+1")} == {
                name: row[name] for name in ("id", "url", "text", "=1+1")
            }
            assert (said["key_"], said["key__"]) == (row["key_"], row["key"]), "none is lost"
        stats = json.loads((tmp_path / "out" / split / "00000_stats.json").read_text())
        assert stats["successes"] == sum(map(with_picture, rows)) == stats["count"] - stats["failed_to_download"]


# CSV, with pandas and pyarrow themselves


def test_csv_is_exact(place: Place, tmp_path: Path) -> None:
    done = export(Csv(), place, tmp_path)
    for split in SPLITS:
        rows = rows_of(place, split)
        frame = pd.read_csv(tmp_path / f"{split}.csv", dtype=str, keep_default_na=False)
        assert len(frame) == len(rows) == done["splits"][split]["rows"]
        for row, told in zip(rows, frame.to_dict("records"), strict=True):
            for name in ("id", "prompt", "license", "url", *scenes.NAMES):
                assert told[name] == (row[name] or "")
            assert told["caption_"] == (row["prompt"] or "")
            assert json.loads(told["captions"]) == row["captions"]
            assert float(told["score"]) == row["score"]
            assert bool(told["file_name_"]) == with_picture(row)
            if with_picture(row):
                assert (tmp_path / told["file_name_"]).read_bytes() == row["image"]["bytes"]
        kinds = pa.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
        lines = pa.csv.ParseOptions(newlines_in_values=True)
        table = pa.csv.read_csv(tmp_path / f"{split}.csv", convert_options=kinds, parse_options=lines)
        assert table["prompt"].to_pylist() == [row["prompt"] for row in rows], "and null is not the empty text"


# What is shared


@pytest.mark.parametrize("format_", FORMATS, ids=str)
def test_pictures_have_names_of_ours_and_every_row_is_accounted_for(
    place: Place, tmp_path: Path, format_: Format
) -> None:
    done = export(format_, place, tmp_path / "out", threads=1)
    files = tree(tmp_path / "out")
    for split in SPLITS:
        rows, counted = rows_of(place, split), done["splits"][split]
        assert counted["rows"] + sum(counted["left_out"].values()) == len(rows) > 0
        pictures = [file for file in files if file.startswith(f"{split}/0") and file.endswith(("jpg", "png", "webp"))]
        lacks = {key: value for key, value in counted["noted"].items() if key == "no_picture"}
        assert len(pictures) == counted["rows"] - sum(lacks.values())
    assert all(
        re.fullmatch(r"[a-z]+(-masks)?/\d{5}/\d{9}(-\d+)?\.(jpg|png|webp|txt|json|bbox)", f)
        for f in files
        if f.count("/") == 2
    )
    assert json.loads((tmp_path / "out/export.json").read_text()) == done
    assert (done["digest"], done["for"]) == (place.lock["digest"], format_.NAME)
    (tmp_path / "out").rename(tmp_path / "one")
    export(format_, place, tmp_path / "out", threads=4)
    assert tree(tmp_path / "out") == files, "the same for any number of threads"
    before = (tmp_path / "out/export.json").stat()
    assert export(format_, place, tmp_path / "out") == done
    assert (tmp_path / "out/export.json").stat() == before, "nothing is done again"


@pytest.mark.parametrize("format_", [SimpleTuner(True), Files(), Csv()], ids=str)
def test_an_export_that_is_killed_at_any_rename_goes_on(place: Place, tmp_path: Path, format_: Format) -> None:
    out = tmp_path / "out"  # always the same folder, as some formats name it
    export(format_, place, out)
    whole = tree(out)
    for at in range(1, 100):
        out.rename(tmp_path / f"out-{at}")
        if not killed(lambda: export(format_, place, out, threads=2), at):
            break
        assert "export.json" not in tree(out), "what has a manifest is finished"
        export(format_, place, out)
        assert tree(out) == whole
    assert at > 8


def killed(work: Callable[[], object], at: int) -> bool:
    """Does the work in another process that is killed when it renames something for the `at`-th time."""
    child = os.fork()
    if not child:
        left = iter(range(at - 1))
        sys.addaudithook(lambda event, _: event == "os.rename" and next(left, None) is None and os.kill(os.getpid(), 9))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def test_rows_that_were_withdrawn_are_left_out(place: Place, tmp_path: Path) -> None:
    gone = {row["id"] for row in rows_of(place, "train")[:5]} | {"not/of/this"}
    done = export(Csv(), place, tmp_path, withdrawn=gone)
    assert done["splits"]["train"]["left_out"] == {"withdrawn": 5}
    told = set(pd.read_csv(tmp_path / "train.csv", dtype=str, keep_default_na=False)["id"])
    assert told == {row["id"] for row in rows_of(place, "train")} - gone
    with pytest.raises(ConfigError, match="holds another export"):
        export(Csv(), place, tmp_path)


def test_a_command_knows_what_was_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = scenes.built(tmp_path, 12)
    gone = rows_of(built, "train")[0]["id"]
    write_withdrawn([Tombstone(gone, "asked to", "id", "v2")], tmp_path / "dist/scenes")
    monkeypatch.chdir(tmp_path)
    app(["export", "csv", "scenes", "v1"], standalone_mode=False)
    done = json.loads((tmp_path / "dist/scenes/exports/v1/csv/export.json").read_text())
    assert done["splits"]["train"]["left_out"] == {"withdrawn": 1}
    write_withdrawn([], tmp_path / "dist/scenes")
    with pytest.raises(ConfigError, match="holds another export"):
        app(["export", "csv", "scenes", "v1"], standalone_mode=False)


class Failing(Csv):
    """Fails in the second block."""

    def note(self, batch: Batch, beside: Beside, noted: Counter[str]) -> pa.Table:
        if beside.block.number == 1:
            raise RuntimeError("in block 1")
        return super().note(batch, beside, noted)


def test_blocks_go_across_shards_and_row_groups(tmp_path: Path) -> None:
    counts, shards, at = (7_001, 1, 13_000, 4_999), [], 0
    for number, rows in enumerate(counts):
        texts = [f"prompt {row}" for row in range(at, at + rows)]
        pq.write_table(pa.table({"id": texts, "prompt": texts}), tmp_path / f"{number}.parquet", row_group_size=997)
        shards.append({"path": f"{number}.parquet", "rows": rows})
        at += rows
    columns = {name: {"dtype": "string", "_type": "Value"} for name in ("id", "prompt")}
    lock = {
        "dataset": "many",
        "release": "v1",
        "digest": "0",
        "columns": columns,
        "splits": {"train": {"shards": shards}},
    }
    place = Place(lock, tmp_path.joinpath)
    with pytest.raises(RuntimeError, match="in block 1"):
        export(Failing(), place, tmp_path / "out", threads=3)
    assert export(Csv(), place, tmp_path / "out", threads=3)["splits"]["train"]["rows"] == at, "and it goes on"
    assert pd.read_csv(tmp_path / "out/train.csv")["prompt"].tolist() == [f"prompt {row}" for row in range(at)]
    assert len([*blocks(place, "train")]) == -(-at // BLOCK) == 3


def test_what_cannot_be_is_one_sentence(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no split 'trian': did you mean 'train'"):
        export(Csv(), place, tmp_path / "a", splits=["trian"])
    with pytest.raises(ConfigError, match="caption of style 'sort': did you mean"):
        export(Csv(), place, tmp_path / "a", caption="sort")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        export(Csv(), place, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"], "nothing was written"
    export(Csv(), place, tmp_path / "c")
    for other in (
        lambda: export(Emu3(), place, tmp_path / "c"),
        lambda: export(Csv(), place, tmp_path / "c", caption="all"),
    ):
        with pytest.raises(ConfigError, match="holds another export"):
            other()
    (tmp_path / "d/.export").mkdir(parents=True)
    with alone(tmp_path / "d/.export/lock"), pytest.raises(ConfigError, match=r"another export writes .* another --to"):
        export(Csv(), place, tmp_path / "d")


def test_a_release_without_pictures_or_with_bytes(tmp_path: Path) -> None:
    texts = scenes.built(tmp_path / "texts", 12, "prompt", "license")
    with pytest.raises(ConfigError, match=r"has no pictures .* csv"):
        export(Emu3(), texts, tmp_path / "out")
    with pytest.raises(ConfigError, match="no column captions to take captions from"):
        export(Csv(), texts, tmp_path / "out", caption="short")
    done = export(Csv(), texts, tmp_path / "out")
    assert sum(split["rows"] for split in done["splits"].values()) == 12
    lock = {**texts.lock, "columns": {**texts.lock["columns"], "mask": {"_type": "Image"}}}
    for format_ in (Csv(), Files()):
        with pytest.raises(ConfigError, match="the column 'mask' of v1 holds bytes"):
            export(format_, Place(lock, texts.at), tmp_path / "bytes")
