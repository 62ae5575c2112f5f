"""Language models: engines beside a bare loop on the same model, and a server's limit of requests, kept to.

    python benchmarks/writers.py generate [--questions 1024] [--rounds 3] [--model FOLDER] [--dtype bfloat16]
    PYTHONPATH=. .venv-vllm/bin/python benchmarks/writers.py vllm [--questions 1000] ...
    python benchmarks/writers.py limit [--questions 10000] [--per-second 50]

`generate` and `vllm` ask the same questions of both sides in one process, by turns, after one round that is not
counted, and give the tokens that each wrote in a second. The bare loop of transformers sorts the prompts by length,
pads each batch to its longest, and samples by one generator for all; that of vLLM is one `LLM.chat` for all questions,
with a seed for each. Without --model a Llama with random weights is made, which seldom ends by itself and whose tokens
are bytes. `limit` asks a server in this process, which notes when each question comes.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hfds.model import Model
from hfds.writer import Answer, Opened, Question, in_order
from processors.models.generate import Generate
from processors.models.openai_server import OpenAIServer
from processors.models.vllm import VLLM

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
SIZE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8}
WORDS = ("a", "red", "old", "golden", "fox", "castle", "piano", "in", "under", "snow", "moon", "forest", "painting")

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def questions(count: int) -> list[Question]:
    """Of 5 to 20 words, each with a seed of its own."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 20))) for _ in range(count)]
    return [Question((("user", f"Another one like this: {text}"),), n) for n, text in enumerate(texts)]


def tokens(found: list[Answer | Exception]) -> int:
    """All that were written."""
    return sum(one.usage.completion_tokens for one in found if isinstance(one, Answer))


def by_writer(opened: Opened, asked: list[Question]) -> int:
    """One side: as a step asks it."""
    return tokens(in_order(opened, asked))


def bare_generate(opened: Any, asked: list[Question], batch: int, most: int) -> Iterator[int]:
    """The other side, with the same network: tokens of each round."""
    import torch
    from transformers import GenerationConfig

    network, tokenizer = opened.network, opened.tokenizer
    tokenizer.padding_side = "left"
    config = GenerationConfig(
        max_new_tokens=most, do_sample=True, top_k=0, eos_token_id=opened.ends, pad_token_id=opened.pad
    )
    while True:
        chats = [[{"role": role, "content": text} for role, text in question.messages] for question in asked]
        ids = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
        order, written = sorted(range(len(ids)), key=lambda row: -len(ids[row])), 0
        with torch.inference_mode():
            for at in range(0, len(order), batch):
                rows = [ids[row] for row in order[at : at + batch]]
                padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(network.device)
                found = network.generate(**padded, generation_config=config)[:, padded["input_ids"].shape[1] :].cpu()
                ended = torch.isin(found, torch.tensor(opened.ends)).int().argmax(1)
                written += int(torch.where(ended > 0, ended + 1, found.shape[1]).sum())
        yield written


def bare_vllm(opened: Any, asked: list[Question], most: int) -> Iterator[int]:
    """The other side, with the same engine: tokens of each round."""
    from vllm import SamplingParams

    while True:
        chats = [[{"role": role, "content": text} for role, text in question.messages] for question in asked]
        sampling = [SamplingParams(temperature=1.0, max_tokens=most, seed=question.seed) for question in asked]
        found = opened.llm.chat(chats, sampling, use_tqdm=False)
        yield sum(len(one.outputs[0].token_ids) for one in found)


def compare(sides: dict[str, Callable[[], int]], rounds: int, clock: Callable[[], float]) -> None:
    """Prints the tokens a second of two sides, by turns, and the ratio of each round."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides) if number % 2 else list(sides)[::-1]:
            start = clock()
            written = sides[name]()
            if number:
                rates[name].append(written / (clock() - start))
    for name, found in rates.items():
        print(f"{name:8} {median(found):10,.0f} tokens/s ({', '.join(f'{rate:,.0f}' for rate in found)})")
    ratios = [one / other for one, other in zip(*rates.values(), strict=True)]
    print(f"ratio    {median(ratios):10.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})")


def engine(args: argparse.Namespace, model: Model) -> None:
    """An engine beside its bare loop."""
    asked, options = questions(args.questions), {"max_tokens": args.tokens}
    if args.what == "vllm":
        given = {"max_model_len": 1024, "enforce_eager": True} if args.device == "cpu" else {}
        opened: Any = VLLM(model, **options, engine=given).open(args.device)
        loop = bare_vllm(opened, asked, args.tokens)
    else:
        opened = Generate(model, **options, batch_size=args.batch).open(args.device)
        loop = bare_generate(opened, asked, args.batch, args.tokens)
    compare({"hfds": lambda: by_writer(opened, asked), "bare": lambda: next(loop)}, args.rounds, CLOCKS[args.clock])
    opened.close()


def limit(args: argparse.Namespace) -> None:
    """A server that notes when it is asked."""
    from fixtures.chat import ChatServer

    with ChatServer() as server:
        server.delay = args.delay
        writer = OpenAIServer(server.url, "tiny", requests_per_minute=args.per_second * 60, concurrency=64)
        opened = writer.open("cpu")
        found = in_order(opened, [Question((("user", str(n)),), n) for n in range(args.questions)])
        opened.close()
    times = np.sort([asked.at for asked in server.asked])
    times -= times[0]
    rate = (len(times) - 1) / times[-1]
    counts = Counter(asked.text for asked in server.asked)
    print(f"answered {sum(isinstance(one, Answer) for one in found):,} of {len(found):,}; asked {len(times):,} times")
    print(f"lost {args.questions - len(counts):,}; asked twice {sum(count > 1 for count in counts.values()):,}")
    print(f"{rate:.3f} a second for {times[-1]:.1f} s, wanted {args.per_second}: {rate / args.per_second - 1:+.2%}")
    for seconds in (1, 10, 60):
        if seconds < times[-1]:
            most = int((np.searchsorted(times, times + seconds) - np.arange(len(times))).max())
            print(f"most in any {seconds} s: {most}, {most / (seconds * args.per_second) - 1:+.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["generate", "vllm", "limit"])
    parser.add_argument("--questions", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: not for vllm")
    parser.add_argument("--per-second", type=float, default=50)
    parser.add_argument("--delay", type=float, default=0.2, help="seconds that the server takes for an answer")
    args = parser.parse_args()
    args.questions = args.questions or {"generate": 1024, "vllm": 1000, "limit": 10_000}[args.what]
    if args.what == "limit":
        return limit(args)
    with tempfile.TemporaryDirectory() as folder:
        if args.model is None:
            from fixtures.llamas import llama

            args.model = llama(Path(folder) / "llama", room=2048, **SIZE)
        engine(args, Model(str(args.model), dtype=args.dtype))


if __name__ == "__main__":
    main()
