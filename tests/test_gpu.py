"""The default checkpoints on a real device: fetched from the Hub, over the pictures of the demo."""

from pathlib import Path

import numpy as np
import pytest

from hfds.annotator import ModelAnnotator
from hfds.catalogue import load
from hfds.model import Model
from hfds.run import Run
from processors.quality import NSFW, ScoreAesthetic, ScoreNsfw, ScoreSimilarity, ScoreWatermark

SOURCES = Path(__file__).parent.parent / "examples/sources"
RANGES = {"nsfw": (0, 1), "watermark": (0, 1), "aesthetic": (1, 10), "similarity": (-1, 1)}
pytestmark = [pytest.mark.gpu, pytest.mark.network]


@pytest.mark.parametrize("step", [ScoreNsfw(), ScoreWatermark(), ScoreAesthetic(), ScoreSimilarity()], ids=repr)
def test_the_default_checkpoints(step: ModelAnnotator, tmp_path: Path) -> None:
    import torch

    assert torch.cuda.is_available()
    rows = load("laion", "img2dataset", data_dir=SOURCES / "laion", split="train", cache_dir=tmp_path / "cache")
    run = Run.here(tmp_path, 4)
    assert run.device == "cuda:0"
    (column,) = step.adds
    scores = np.array([score for score in step(rows, run)[column] if score is not None])
    least, most = RANGES[column]
    assert len(scores)
    assert (scores >= least).all()
    assert (scores <= most).all()


def test_half_precision_is_near(tmp_path: Path) -> None:
    rows = load("laion", "img2dataset", data_dir=SOURCES / "laion", split="train", cache_dir=tmp_path / "cache")
    full = ScoreNsfw()(rows, Run.here(tmp_path))["nsfw"][:]
    half = ScoreNsfw(Model(NSFW.repo, NSFW.revision, "bfloat16"))(rows, Run.here(tmp_path))["nsfw"][:]
    for one, other in zip(full, half, strict=True):
        assert one == other or abs(one - other) < 0.02
