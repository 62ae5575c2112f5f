"""The ledger proves conservation, and explains a row."""

from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from hfds.errors import ConfigError, ConservationError, HfdsError
from hfds.ledger import check_conservation, explain, funnel, write_ledger
from hfds.record import DROPPED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six rows of two inputs."""
    fates = [
        None,
        {"step": "KeepPrompt", "reason": "too_short", "value": "3", "threshold": "16", "partner": None},
        {"step": "MarkDuplicates", "reason": "duplicate_prompt", "value": "1", "threshold": None, "partner": "a/1"},
        None,
        {"step": "MarkDuplicates", "reason": "duplicate_prompt", "value": "1", "threshold": None, "partner": "a/3"},
        None,
    ]
    rows = Dataset(
        pa.table(
            {
                "id": ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3"],
                "split": ["train", None, None, "validation", None, None],
                "dropped": pa.array(fates, DROPPED),
            }
        )
    )
    write_ledger(rows, {"a/x": 3, "b/y": 3}, tmp_path / "ledger.parquet")
    return tmp_path / "ledger.parquet"


def test_the_funnel_counts_every_row_once(path: Path) -> None:
    assert funnel(path) == [
        {
            "input": "a/x",
            "rows": 3,
            "dropped": [
                {"step": "KeepPrompt", "reason": "too_short", "rows": 1},
                {"step": "MarkDuplicates", "reason": "duplicate_prompt", "rows": 1},
            ],
            "kept": {"train": 1},
        },
        {
            "input": "b/y",
            "rows": 3,
            "dropped": [{"step": "MarkDuplicates", "reason": "duplicate_prompt", "rows": 1}],
            "kept": {"train": 1, "validation": 1},
        },
    ]


def test_conservation(path: Path) -> None:
    counted = funnel(path)
    check_conservation(counted, {"a/x": 3, "b/y": 3}, {"train": 2, "validation": 1})
    check_conservation(counted, {"a/x": 3, "b/y": 3, "c/empty": 0}, {"train": 2, "validation": 1})
    with pytest.raises(ConservationError, match="b/y gave 4 rows, the ledger accounts for 3"):
        check_conservation(counted, {"a/x": 3, "b/y": 4}, {"train": 2, "validation": 1})
    with pytest.raises(ConservationError, match="c/z gave 1 rows, the ledger accounts for 0"):
        check_conservation(counted, {"a/x": 3, "b/y": 3, "c/z": 1}, {"train": 2, "validation": 1})
    with pytest.raises(ConservationError, match=r"the ledger keeps .* the shards hold"):
        check_conservation(counted, {"a/x": 3, "b/y": 3}, {"train": 2})


def test_explain_follows_the_partners(path: Path) -> None:
    assert [(row["id"], row["reason"]) for row in explain(path, "b/2")] == [
        ("b/2", "duplicate_prompt"),
        ("a/3", "duplicate_prompt"),
        ("a/1", None),
    ]
    assert explain(path, "a/1")[0]["split"] == "train"
    with pytest.raises(ConfigError, match=r"no row 'x/none' in ledger\.parquet: ids begin with"):
        explain(path, "x/none")
    with pytest.raises(ConfigError, match="did you mean 'a/1'"):
        explain(path, "c/1")
    with pytest.raises(HfdsError, match="build the release first"):
        explain(path.with_name("none.parquet"), "a/1")
