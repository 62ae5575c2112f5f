"""Shipped releases with prompts that a language model writes."""

from pathlib import Path

import pytest
from datasets import load_dataset
from fixtures.writers import Scribe

from hfds import Release, Run, build
from hfds.releases.image_to_prompt import DEMO, V2, V3_PAINTED, V5, V5_PAINTED, augmented
from processors.augment import AugmentPrompts
from processors.dedup import MarkDuplicates
from processors.keep import Keep
from processors.paint import Paint
from processors.quality import ScoreSimilarity
from processors.split import Split


@pytest.mark.parametrize("shipped", [DEMO, V2, V5, V3_PAINTED, V5_PAINTED], ids=lambda release: release.name)
def test_a_shipped_release_with_new_prompts(shipped: Release) -> None:
    made = augmented(shipped, "more", Scribe(), wanted=25_707, license="CC0-1.0")
    made.check()
    assert made.earlier() == shipped.earlier()
    (at,) = [number for number, one in enumerate(made.steps) if isinstance(one, AugmentPrompts)]
    augment = made.steps[at]
    assert isinstance(augment, AugmentPrompts)
    assert made.steps == (*shipped.steps[:at], augment, *shipped.steps[at:])
    own = [one for one in made.steps[:at] if not isinstance(one, Split)]
    assert [*augment.rules[: len(own)]] == own
    trained = tuple((earlier, "train") for earlier in shipped.earlier())
    more = [rule for rule in augment.rules[len(own) :] if isinstance(rule, MarkDuplicates)]
    expected = [(("prompt",), trained), (("prompt_embedding",), trained)] if trained else []
    assert [(rule.compares, rule.against) for rule in more] == expected
    assert len(own) + len(more) == len(augment.rules)
    assert not [one for one in made.steps[at + 1 :] if not isinstance(one, (Paint, ScoreSimilarity, Keep))]
    assert made.columns[-1] == "lineage"


def test_the_demo_with_new_prompts(tmp_path: Path) -> None:
    sources = Path(__file__).parents[1] / "examples/sources"
    more = augmented(DEMO, "more", Scribe(), wanted=30, license="CC0-1.0")
    built = build(more, Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist", rows=40)
    assert built.funnel[-1]["kept"] == {"train": built.lock["sources"][-1]["written"]["kept"]}
    rows = load_dataset(str(built.folder), "more", split="train")
    new = [row for row in rows.remove_columns("image") if row["lineage"]]
    assert len(new) == built.lock["sources"][-1]["written"]["kept"] >= 30
    examples = {example.partition("/")[0] for row in new for example in row["lineage"]["examples"]}
    assert {"fine", "laion", "diffusiondb"} <= examples
