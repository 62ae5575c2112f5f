"""Checks that every builder passes, shipped so that users can test their own.

check_builder(MySource, fixture_folder, cache_dir=tmp_path, rows=12, dropped={"truncated_image": 1})
"""

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import xxhash

from hfds.builder import Builder
from hfds.record import FEATURES


def check_builder(
    builder: type[Builder],
    data_dir: str | Path,
    config: str | None = None,
    *,
    cache_dir: str | Path,
    rows: int,
    dropped: Mapping[str, int] | None = None,
    **options: Any,
) -> datasets.Dataset:
    """All rows of a source, after asserting that it keeps what a builder promises.

    It must give the same rows in the same order prepared by one process, by two, piece by piece and streaming; the
    common schema; ids that are unique, stable and begin with the source's name; for every kept picture bytes that
    decode, with the hash, width and height that the row says; and `rows` rows in all, of which `dropped` counts those
    dropped, by reason.

    Raises:
        AssertionError: with the first promise that is broken.
    """

    def make(folder: str) -> Builder:
        return builder(config, data_dir=data_dir, cache_dir=Path(cache_dir) / folder, **options)

    one = make("one")
    one.download_and_prepare()
    all_rows = _concatenate([one.as_dataset(split) for split in one.info.splits])
    expected = _plain(all_rows)

    two = make("two")
    two.download_and_prepare(num_proc=2)
    assert _plain(_concatenate([two.as_dataset(s) for s in two.info.splits])) == expected, "two processes: other rows"

    parts = []
    for split, piece in make("pieces").each_piece(Path(cache_dir) / "pieces"):
        piece.download_and_prepare()
        parts.append(piece.as_dataset(split))
    assert _plain(_concatenate(parts)) == expected, "piece by piece: other rows"

    streamed = [row for s in one.info.splits for row in _undecoded(make("stream").as_streaming_dataset(s))]
    assert streamed == expected, "streaming: other rows"

    assert all_rows.features == FEATURES, "not the common schema"
    ids = [row["id"] for row in expected]
    assert len(set(ids)) == len(ids), f"ids not unique: {[i for i, n in Counter(ids).items() if n > 1]}"
    assert all(i.startswith(f"{builder.NAME}/") and i.isprintable() for i in ids), f"ids not '{builder.NAME}/<key>'"
    assert {row["source"] for row in expected} <= {builder.NAME}, "source is not the builder's name"
    assert all(row["license"] for row in expected), "a row without a licence: say 'unknown'"

    reasons = Counter(row["dropped"]["reason"] for row in expected if row["dropped"])
    assert reasons == Counter(dropped or {}), f"dropped {dict(reasons)}, expected {dict(dropped or {})}"
    assert len(expected) == rows, f"{len(expected)} rows, expected {rows}: a row appeared or vanished"
    for number, row in enumerate(expected):
        if row["image"] is not None and row["dropped"] is None:
            _check_picture(all_rows, number, row)
    return all_rows


def _check_picture(all_rows: datasets.Dataset, number: int, row: dict[str, Any]) -> None:
    import PIL.Image
    from datasets.table import embed_table_storage

    raw = all_rows.select_columns(["image"]).select([number]).with_format("arrow")[:]
    data = embed_table_storage(raw)["image"][0].as_py()["bytes"]
    assert xxhash.xxh3_128_hexdigest(data) == row["image_hash"], f"{row['id']}: image_hash is not of its bytes"
    with PIL.Image.open(io.BytesIO(data)) as image:
        assert image.size == (row["width"], row["height"]), f"{row['id']}: {image.size} is not its width and height"
        image.load()


def _concatenate(parts: list[datasets.Dataset]) -> datasets.Dataset:
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts, split=datasets.Split("all"))


def _undecoded(rows: Any) -> Any:
    return rows.cast_column("image", datasets.Image(decode=False))


def _plain(rows: datasets.Dataset) -> list[dict[str, Any]]:
    return list(_undecoded(rows))
