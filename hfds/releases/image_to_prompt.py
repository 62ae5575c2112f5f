"""image-to-prompt: pictures and prompts for models that read the prompt back from the picture."""

from builders.diffusiondb import DiffusionDB
from builders.laion import Laion
from builders.prompt_lists import PromptLists
from hfds.release import Input, Release
from processors.clean_prompt import CleanPrompt
from processors.dedup import MarkDuplicates
from processors.keep_prompt import KeepPrompt
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
        Split(validation=0.05),
    ),
)
