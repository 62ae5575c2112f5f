"""image-to-prompt: pictures and prompts for models that read the prompt back from the picture.

v2 to v5 are the sets of songjein/image-to-prompts-28th-solution, made again from the renders that were published
before they were cleaned, freed of duplicates and split. docs/image-to-prompt.md says what they were, what is different
here, and which of the published figures add up. v2-painted to v5-painted are the same from prompts, for which pictures
are painted here.
"""

from dataclasses import replace
from typing import Any

from builders.diffusiondb import DiffusionDB
from builders.gustavosta import Gustavosta
from builders.laion import Laion
from builders.openprompts import OpenPrompts
from builders.prompt_lists import PromptLists
from builders.sd2_renders import SD2Renders
from hfds.model import Pipeline
from hfds.processor import Step
from hfds.release import COLUMNS, Input, Release
from hfds.writer import Writer
from processors.augment import AugmentPrompts
from processors.clean_prompt import V5_CLEAN, CleanPrompt
from processors.dedup import MarkDuplicates
from processors.duplicates.alike import Alike
from processors.embed import EmbedPrompt
from processors.keep import Keep
from processors.keep_prompt import V4_KEEP, V5_KEEP, KeepPrompt
from processors.language import CountPersons, DetectLanguage
from processors.paint import SD2, Paint
from processors.quality import CLIP_H, ScoreSimilarity
from processors.split import Split

DEMO = Release(
    dataset="image-to-prompt",
    name="demo",
    description="A small release from real rows with open licences, built without a GPU by `make demo`.",
    # Of equal prompts the first stays: the one with a picture.
    inputs=(Input(Laion, "img2dataset"), Input(DiffusionDB, "2m_text"), Input(PromptLists, "all")),
    steps=(
        CleanPrompt(),
        KeepPrompt(),
        MarkDuplicates(of="image_hash"),
        MarkDuplicates(of="prompt"),
        MarkDuplicates(of="prompt", above=0.7),
        Split(validation=0.05),
    ),
)
SAME, NEAR = 0.85, 0.75  # cosines of MiniLM: from which a prompt is said twice, and too near one in validation

# Each generation of rules first without what a model is asked for, so that it is asked about fewer prompts.
V4_RULES: tuple[Step, ...] = (CleanPrompt(), replace(V4_KEEP, language=None), DetectLanguage(), V4_KEEP)
V5_RULES: tuple[Step, ...] = (
    V5_CLEAN,
    replace(V5_KEEP, language=None, persons=None),
    DetectLanguage(),
    CountPersons(),
    V5_KEEP,
)
# Of rows that are alike the first stays, so a later release, whose inputs come behind, keeps the same ones.
DUPLICATES: tuple[Step, ...] = (
    MarkDuplicates(of="image_hash"),
    MarkDuplicates(of="prompt"),
    EmbedPrompt(),
    MarkDuplicates(of="prompt_embedding", above=SAME),
)


def _split(*earlier: Release) -> tuple[Step, ...]:
    """What `earlier` releases split stays as it is; then what is near a row in validation leaves train."""
    return (
        Split(
            validation=0.05,
            of=("prompt", "image_hash", Alike("prompt_embedding", above=SAME)),
            earlier=earlier,
            wins="validation",
        ),
        MarkDuplicates(
            of="prompt_embedding",
            above=NEAR,
            against=("split:validation", *((release, "validation") for release in earlier)),
        ),
    )


def _listed(version: str) -> Input:
    """The renders that the original `version` lists for training."""
    folder = f"image-to-prompt-train-valid-split-{version.replace('_', '-')}"
    return Input(SD2Renders, f"image_to_prompt_{version}", splits=("train",), into="train", folder=folder)


DEMO_MEANING = DEMO.but(
    "demo-meaning",
    description="The same by what prompts mean. What demo holds back stays held back.",
    steps=(*DEMO.steps[:2], *DUPLICATES, *_split(DEMO)),
)

V2 = Release(
    dataset="image-to-prompt",
    name="v2",
    description=(
        "211,238 renders of DiffusionDB's prompts with Stable Diffusion 2. Duplicates leave before the split, and one "
        "of each group stays; the original split first and dropped whole groups."
    ),
    inputs=(Input(SD2Renders, "sd2_images_211238", folder="sd2-images-211238"),),
    steps=(*V4_RULES, *DUPLICATES, *_split()),
)
V3 = V2.but(
    "v3",
    description=(
        "v2 with 25,707 renders of prompts by ChatGPT, and with those of Gustavosta's prompts in the splits that they "
        "were published in."
    ),
    inputs=(
        *V2.inputs,
        Input(SD2Renders, "chatgpt_dedup_0330", folder="chatgpt-images-dedup-0330"),
        Input(Gustavosta, "sd2_v2", splits=("train",), into="train"),
        Input(Gustavosta, "sd2_v2", splits=("eval",), into="validation"),
    ),
    steps=(*V4_RULES, *DUPLICATES, *_split(V2)),
)
V4 = V2.but(
    "v4",
    description=(
        "v2 with about 120,000 renders of OpenPrompts' prompts to train on, and with all of Gustavosta's prompts in "
        "validation, on part of which v3 trains."
    ),
    inputs=(
        *V2.inputs,
        Input(Gustavosta, "sd2_v2", into="validation"),
        Input(SD2Renders, "openprompts_120k_dedup_metadata", into="train", folder="openprompts-images-120k-dedup"),
    ),
    steps=(*V4_RULES, *DUPLICATES, *_split(V2, V3)),
)
V4A = V4.but(
    "v4-a",
    description=(
        "v4 with the further renders of OpenPrompts' prompts that the original v4-a lists. They go through the same "
        "rules as all others, which the original forgot."
    ),
    inputs=(*V4.inputs, _listed("v4_a")),
    steps=(*V4_RULES, *DUPLICATES, *_split(V2, V3, V4)),
)
V4B = V4A.but(
    "v4-b",
    description="v4-a by the list of the original v4-b, from which the original's rules had dropped 28 rows.",
    inputs=(*V4.inputs, _listed("v4_b")),
    steps=(*V4_RULES, *DUPLICATES, *_split(V2, V3, V4, V4A)),
)
V5 = V4B.but(
    "v5",
    description=(
        "v4-b by the rules of v5, which erase the names of cameras, artists, sites and engines, with the renders of "
        "sd2gpt2 and sd2hardcode to train on. Its validation holds what is left of v4-b's."
    ),
    inputs=(
        *V4B.inputs,
        Input(SD2Renders, "sd2gpt2", into="train", folder="sd2gpt2"),
        Input(SD2Renders, "sd2hardcode", into="train", folder="sd2hardcode"),
    ),
    steps=(*V5_RULES, *DUPLICATES, *_split(V2, V3, V4, V4A, V4B)),
)

# As the original painted: in half precision, 50 steps, guidance 9, scaled to 512x512 and saved as JPEG; and kept what
# CLIP ViT-H/14 finds to be alike. What is painted is the cleaned prompt, which is the one that a trainer reads.
PAINTED: tuple[Step, ...] = (
    Paint(Pipeline(SD2.repo, dtype="float16"), steps=50, guidance=9.0, scaled_to=(512, 512), format="jpeg"),
    ScoreSimilarity(CLIP_H),
    Keep("similarity > 0.3", reason="unlike_prompt"),
)


def _painted(name: str, told: str, inputs: tuple[Input, ...], rules: tuple[Step, ...], *earlier: Release) -> Release:
    """A release whose pictures are painted here: prompts, cleaned, without duplicates, split, and only then painted."""
    return Release(
        dataset="image-to-prompt",
        name=name,
        description=f"{told} Painted here with Stable Diffusion 2.",
        inputs=inputs,
        steps=(*rules, *DUPLICATES, *_split(*earlier), *PAINTED),
        columns=(*COLUMNS, "tokens_cut", "similarity"),
    )


PROMPTS = (Input(DiffusionDB, "2m_text"),)
V2_PAINTED = _painted("v2-painted", "DiffusionDB's prompts.", PROMPTS, V4_RULES)
V3_PAINTED = _painted(
    "v3-painted",
    "v2-painted with Gustavosta's prompts in the splits that they were published in.",
    (
        *PROMPTS,
        Input(Gustavosta, "text", splits=("train",), into="train"),
        Input(Gustavosta, "text", splits=("eval",), into="validation"),
    ),
    V4_RULES,
    V2_PAINTED,
)
V4_INPUTS = (*PROMPTS, Input(Gustavosta, "text", into="validation"), Input(OpenPrompts, into="train"))
V4_PAINTED = _painted(
    "v4-painted",
    "v2-painted with OpenPrompts' prompts to train on, and with all of Gustavosta's in validation.",
    V4_INPUTS,
    V4_RULES,
    V2_PAINTED,
    V3_PAINTED,
)
V5_PAINTED = _painted(
    "v5-painted",
    "v4-painted by the rules of v5.",
    V4_INPUTS,
    V5_RULES,
    V2_PAINTED,
    V3_PAINTED,
    V4_PAINTED,
)


def augmented(release: Release, name: str, writer: Writer, wanted: int, **more: Any) -> Release:
    """`release` with prompts that a language model writes from its own, which go through all that its own go through
    before the first is painted; v3 has 25,707 pictures of such prompts. What earlier releases train on is not new.

    Args:
        name: of the release that is made.
        writer, wanted, more: as of `AugmentPrompts`.
    """
    steps = release.steps
    end = next((number for number, step in enumerate(steps) if isinstance(step, Paint)), len(steps))
    rules = tuple(step for step in steps[:end] if not isinstance(step, Split))
    trained = tuple((earlier, "train") for earlier in release.earlier())
    known = (replace(rule, against=trained) for rule in rules if isinstance(rule, MarkDuplicates) and not rule.against)
    new = tuple(rule for rule in known if trained and "image_hash" not in rule.compares)
    augment = AugmentPrompts(writer, wanted, (*rules, *new), **more)
    columns = tuple(dict.fromkeys((*release.columns, "lineage")))
    return release.but(name, steps=(*steps[:end], augment, *steps[end:]), columns=columns)
