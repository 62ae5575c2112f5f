"""The ledger proves conservation."""

from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset

from hfds.errors import ConservationError
from hfds.ledger import check_conservation, funnel, write_ledger
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
