"""Gustavosta: every published form of the text, the renders on Kaggle, hostile paths, and files that stop the build."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures import gustavosta

from builders.gustavosta import Gustavosta
from hfds.errors import BadFile, SourceMissing
from hfds.testing import check_builder


@pytest.mark.parametrize("kind", ["parquet", "csv", "txt"])
def test_every_form_of_the_text_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    gustavosta.hub(tmp_path / "source", kind)
    rows = check_builder(Gustavosta, tmp_path / "source", cache_dir=tmp_path / "cache", rows=9)
    assert rows["id"] == [
        *(f"gustavosta/train/{n:08d}" for n in range(7)),
        *(f"gustavosta/eval/{n:08d}" for n in (0, 1)),
    ]
    assert rows["prompt"] == [text or None for text in gustavosta.TRAIN] + gustavosta.EVAL
    assert rows[1]["captions"] == [{"style": "prompt", "text": " outer blanks, 4 k, "}]
    assert rows[4]["captions"] == []
    assert {row["license"] for row in rows} == {"unknown"}
    assert not any(row["image"] or row["extra"] for row in rows)


def test_renders_share_the_ids_of_the_text(tmp_path: Path) -> None:
    gustavosta.hub(tmp_path / "text")
    gustavosta.kaggle(tmp_path / "renders")
    text = check_builder(Gustavosta, tmp_path / "text", cache_dir=tmp_path / "a", rows=9)
    dropped = {"no_picture": 1, "truncated_image": 1, "no_metadata": 1}
    renders = check_builder(
        Gustavosta, tmp_path / "renders", "sd2_v2", cache_dir=tmp_path / "b", rows=10, dropped=dropped
    )
    by_id = {row["id"]: row for row in renders}
    assert [by_id[row["id"]]["prompt"] for row in text] == text["prompt"]
    assert by_id["gustavosta/train/00000006"]["width"] == 46
    assert by_id["gustavosta/eval/00000001"]["extra"] == {"image_path": f"{gustavosta.KAGGLE}/eval_images/00000001.jpg"}
    assert by_id["gustavosta/train/00000003"]["dropped"]["reason"] == "no_picture"
    assert by_id["gustavosta/train/train_images/00000099.jpg"]["dropped"]["reason"] == "no_metadata"


def test_pieces_of_many_renders_know_of_each_other(tmp_path: Path) -> None:
    gustavosta.kaggle(tmp_path / "source")
    paths = [f"{number:08d}.jpg" for number in range(20_001)] + ["00000000.jpg"]
    gustavosta.table(tmp_path / "source/train.csv", [{"Prompt": path, "image_path": path} for path in paths])
    builder = Gustavosta("sd2", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache", splits=["train"])
    builder.download_and_prepare(num_proc=2)
    rows = builder.as_dataset("train").select_columns(["id", "prompt", "dropped"]).with_format("arrow")[:]
    assert [len(pieces) for pieces in builder.pieces().values()] == [2]
    assert rows["id"].to_pylist() == [f"gustavosta/train/{number:08d}" for number in range(20_002)]
    assert rows["prompt"].to_pylist() == paths
    assert rows["dropped"][20_001]["reason"].as_py() == "duplicate_key"


def test_a_path_is_only_compared(tmp_path: Path) -> None:
    expected = gustavosta.hostile(tmp_path / "source")
    rows = check_builder(
        Gustavosta,
        tmp_path / "source",
        "sd2",
        cache_dir=tmp_path / "cache",
        rows=1 + sum(expected.values()),
        dropped=expected,
    )
    assert [row["prompt"] for row in rows if row["dropped"] is None] == ["good"]


def test_a_line_of_the_old_text_that_is_not_utf8_is_one_dropped_row(tmp_path: Path) -> None:
    gustavosta.hub(tmp_path / "source", "txt")
    (tmp_path / "source/eval.txt").write_bytes(b"one\ncaf\xe9\nthree")
    rows = check_builder(
        Gustavosta, tmp_path / "source", cache_dir=tmp_path / "cache", rows=10, dropped={"not_utf8": 1}
    )
    assert rows["prompt"][-3:] == ["one", None, "three"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "txt"])
def test_row_numbers_go_on_from_batch_to_batch(tmp_path: Path, kind: str) -> None:
    prompts = [f"a prompt with the number {number}" for number in range(25_000)]
    (tmp_path / "data").mkdir()
    if kind == "parquet":
        pq.write_table(pa.table({"Prompt": prompts}), tmp_path / "data/eval.parquet")
    elif kind == "csv":
        prompts = [prompt * 20 for prompt in prompts]
        gustavosta.table(tmp_path / "data/eval.csv", [{"Prompt": prompt} for prompt in prompts])
    else:
        (tmp_path / "eval.txt").write_text("\n".join(prompts))
    builder = Gustavosta(data_dir=tmp_path, cache_dir=tmp_path / "cache", splits=["eval"])
    builder.download_and_prepare()
    rows = builder.as_dataset("eval")
    assert rows["id"][:] == [f"gustavosta/eval/{number:08d}" for number in range(25_000)]
    assert rows["prompt"][:] == prompts


def test_a_later_column_is_kept(tmp_path: Path) -> None:
    gustavosta.hub(tmp_path / "source")
    pq.write_table(pa.table({"Prompt": ["a"], "rank": [2**63 - 1]}), tmp_path / "source/data/eval.parquet")
    rows = check_builder(Gustavosta, tmp_path / "source", cache_dir=tmp_path / "cache", rows=8)
    assert rows[-1]["extra"] == {"rank": 2**63 - 1}


def write(path: Path, what: object) -> None:
    if isinstance(what, bytes):
        path.with_suffix(".parquet").unlink()
        path.with_suffix(".csv").write_bytes(what)
    else:
        pq.write_table(what, path.with_suffix(".parquet"))


@pytest.mark.parametrize(
    "what, message",
    [
        (pa.table({"prompt": ["a"]}), r"data/train\.parquet: no column 'Prompt'"),
        (pa.table({"Prompt": [1]}), r"data/train\.parquet: column 'Prompt' is int64, wanted text"),
        (b"", r"data/train\.csv: the file is empty"),
        (b"text\na\n", r"data/train\.csv: no column 'Prompt', only 'text'"),
        (b'Prompt\na\n"b\nc\n', r"data/train\.csv: line 3: a quote is opened and never closed"),
        (b"Prompt\na,b\n", r"data/train\.csv: line 2: 2 fields instead of 1"),
        (b"Prompt\ncaf\xe9\n", r"data/train\.csv: line 2 is not UTF-8"),
    ],
)
def test_a_bad_file_stops_the_build_and_is_named(tmp_path: Path, what: object, message: str) -> None:
    gustavosta.hub(tmp_path / "source")
    write(tmp_path / "source/data/train.parquet", what)
    with pytest.raises(BadFile, match=message):
        Gustavosta(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").download_and_prepare()


def test_renders_without_their_paths(tmp_path: Path) -> None:
    gustavosta.kaggle(tmp_path / "source")
    gustavosta.table(tmp_path / "source/eval.csv", [{"Prompt": "a"}])
    with pytest.raises(BadFile, match=r"eval\.csv: no column 'image_path', only 'Prompt'"):
        Gustavosta("sd2", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").download_and_prepare()


@pytest.mark.parametrize("folder, message", [(True, r"no pictures \(.jpg"), (False, r"no folder .*eval_images")])
def test_renders_without_their_pictures(tmp_path: Path, folder: bool, message: str) -> None:
    gustavosta.kaggle(tmp_path / "source")
    images = tmp_path / "source/eval_images"
    images.rename(tmp_path / "source/moved")
    if folder:
        images.mkdir()
    with pytest.raises(SourceMissing, match=message):
        Gustavosta("sd2", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").pieces()


def test_another_picture_under_the_same_name_is_seen(tmp_path: Path) -> None:
    gustavosta.kaggle(tmp_path / "source")
    before = Gustavosta("sd2", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").cache_dir
    image = tmp_path / "source/eval_images/00000000.jpg"
    image.write_bytes(image.read_bytes()[::-1])
    assert Gustavosta("sd2", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").cache_dir != before
