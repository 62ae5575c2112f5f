"""Language models by vLLM in this process (Kwon et al. 2023, arxiv.org/abs/2309.06180), one engine on each rank."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from hfds.errors import ConfigError, MissingExtra, WriterError
from hfds.model import Model
from hfds.writer import Answer, Question, Usage, checked, schema_problems
from processors.models.chat import load_chat, marks_of, messages, refuse_marks
from processors.models.sampling import sampling_entry, sampling_problems

# Arguments of vllm.LLM that say where and how fast it runs, and nothing of what it writes.
PLACE = (
    "cpu_offload_gb", "disable_log_stats", "distributed_executor_backend", "enforce_eager", "gpu_memory_utilization",
    "kv_cache_memory_bytes", "max_num_batched_tokens", "max_num_seqs", "pipeline_parallel_size", "tensor_parallel_size",
)  # fmt: skip
# What torchrun and accelerate say of this process, which its engine would take for its own.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class VLLM:
    """A chat model in an engine of vLLM, which keeps answers to a schema.

    Every answer has a seed of its own. vLLM decides by itself what it computes together, so that the last bits of its
    numbers, and with them now and then a word, may differ between two runs: there the store is what makes a release the
    same again.

    Args:
        model: the checkpoint, with its tokenizer and the template of its chats.
        temperature, top_p, max_tokens: of the sampling; 0 as temperature takes the likeliest token.
        engine: further arguments of `vllm.LLM`, such as {"max_model_len": 4096}. Those in `PLACE` are in no key.
    """

    model: Model
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    engine: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def at_once(self) -> int:
        """Enough for the end of a call, where the engine is not full, to be a small part of it."""
        return 2048

    def entry(self) -> dict[str, Any]:
        """What its answers depend on."""
        sampling = sampling_entry(self.temperature, self.top_p, self.max_tokens)
        engine = {name: value for name, value in self.engine.items() if name not in PLACE}
        return {"backend": type(self).__name__, "model": self.model.identity, **sampling, "engine": engine}

    def problems(self) -> list[str]:
        """What is wrong with its parameters."""
        if not isinstance(self.model, Model):
            return [f"{type(self).__name__}: model must be a hfds.model.Model, got {self.model!r}"]
        found = [*self.model.problems(), *sampling_problems(self.temperature, self.top_p, self.max_tokens)]
        if taken := sorted({"model", "revision", "dtype", "seed", "trust_remote_code", "hf_token"} & {*self.engine}):
            found.append(f"engine must not hold {taken[0]!r}, which hfds says itself or reads from the environment")
        return [f"{type(self).__name__}: {problem}" for problem in found]

    def open(self, device: str, ranks: int = 1) -> "Engine":
        """An engine on `device`, and with "tensor_parallel_size" or "pipeline_parallel_size" on those behind it.

        Raises:
            ConfigError: a parameter cannot be, or the engine does not start.
            MissingExtra: vllm is not installed.
        """
        if problems := self.problems():
            raise ConfigError(*problems)
        try:
            import_module("vllm")
        except ImportError:
            raise MissingExtra(type(self).__name__, "vllm", "vllm") from None
        return Engine(self, device)


class Engine:
    """A chat model in an engine; see `hfds.writer.Opened`."""

    def __init__(self, writer: VLLM, device: str):
        from vllm import LLM

        self.marks = marks_of(load_chat(writer.model))  # which says better than vLLM what is missing
        self.writer, self.name = writer, writer.model.identity
        folder = writer.model.folder()
        with _on(device, _devices(writer.engine)):
            try:
                self.llm: Any = LLM(str(folder), dtype=writer.model.dtype, seed=0, **_options(writer.engine, device))
            except Exception as error:
                raise ConfigError(
                    f"vLLM does not start with {writer.model.repo} ({_told(error)}): what it said before has the cause"
                ) from error
        _end_waits_of_the_dead(self.llm.llm_engine.engine_core)
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """Of all answers."""
        return self._usage

    def write(
        self, questions: Sequence[Question], schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Answer | Exception]]:
        """See `hfds.writer.Opened`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        if schema is not None and (problems := schema_problems(schema)):
            raise ConfigError(*problems)
        waiting: dict[str, int] = {}
        try:
            for position, question in enumerate(questions):
                try:
                    refuse_marks(question, self.marks)
                    [request] = self.llm.enqueue_chat(
                        [messages(question)], [self._sampling(question, schema)], use_tqdm=False
                    )
                    waiting[request.partition("-")[0]] = position  # behind it are characters that no answer has
                except EngineDeadError:
                    raise
                except Exception as error:  # noqa: BLE001  one that is too long, or that the template does not take
                    yield position, error.with_traceback(None)
            while self.llm.llm_engine.has_unfinished_requests():
                for found in self.llm.llm_engine.step():
                    if found.finished:
                        yield waiting.pop(found.request_id), self._answer(found, schema)
        except EngineDeadError as error:
            raise WriterError(
                f"the engine of {self.writer.model.repo} died ({_told(error)}); what was answered is kept: "
                "find what it said before, and run again to go on"
            ) from error
        finally:
            if waiting:
                self.llm.llm_engine.abort_request([*waiting])

    def close(self) -> None:
        """Ends the engine."""
        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None

    def _sampling(self, question: Question, schema: Mapping[str, Any] | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        writer = self.writer
        return SamplingParams(
            temperature=writer.temperature,
            top_p=writer.top_p,
            max_tokens=writer.max_tokens,
            seed=question.seed,
            structured_outputs=StructuredOutputsParams(json=dict(schema)) if schema is not None else None,
        )

    def _answer(self, found: Any, schema: Mapping[str, Any] | None) -> Answer | Exception:
        [written] = found.outputs
        usage = Usage(1, len(found.prompt_token_ids), len(written.token_ids))
        self._usage += usage
        return checked(Answer(written.text, str(written.finish_reason), usage, self.name), schema)


def _end_waits_of_the_dead(core: Any) -> None:
    """Has a wait for an engine end when its process is killed, for want of memory, say: that of vLLM 0.32 has no end,
    as the thread that would bring answers just ends."""
    from vllm.v1.engine.exceptions import EngineDeadError

    thread, answers = getattr(core, "output_queue_thread", None), getattr(core, "outputs_queue", None)
    if thread is None or answers is None:  # the engine is no process of its own
        return

    def end() -> None:
        thread.join()
        answers.put(EngineDeadError())

    threading.Thread(target=end, name="hfds-engine", daemon=True).start()


def _options(engine: Mapping[str, Any], device: str) -> dict[str, Any]:
    """With JSON as it is written by people, not with the blanks without end that a small model may fill it with."""
    found = {"backend": "xgrammar", "disable_any_whitespace": True}
    # Of vLLM 0.32 the engine for processors dies of a question with a seed that it reads in two pieces.
    whole = {"enable_chunked_prefill": False} if device == "cpu" else {}
    return {"structured_outputs_config": found, "disable_log_stats": True, **whole, **engine}


def _devices(engine: Mapping[str, Any]) -> int:
    """How many an engine runs on: as many as each piece of the model is divided among, for each of its pieces."""
    return int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))


@contextmanager
def _on(device: str, count: int) -> Iterator[None]:
    """An environment in which an engine, which is a process of its own, is alone on its devices."""
    changed: dict[str, str | None] = dict.fromkeys(LAUNCHED)
    if device.startswith("cuda"):
        own = int(device.partition(":")[2] or 0)
        there = (os.environ.get("CUDA_VISIBLE_DEVICES") or "").split(",")
        numbers = [str(number) for number in range(own * count, own * count + count)]
        if there != [""]:
            numbers = [there[int(number)] for number in numbers if int(number) < len(there)]
        changed["CUDA_VISIBLE_DEVICES"] = ",".join(numbers)
    before = {name: os.environ.get(name) for name in changed}
    _set(changed)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
