"""Parts: what a checkpoint of diffusers is made of, each part whole or the checkpoint refused.

diffusers loads whatever class of whatever library a checkpoint names, and transformers makes up the weights and the
vocabulary that are missing. Here neither happens.
"""

from typing import Any, TypeAlias

from hfds.errors import ConfigError
from hfds.model import Pipeline
from processors.models.checkpoint import load_from, read_json

Parts: TypeAlias = dict[str, tuple[str | None, str | None]]  # library and class by name; None where there is no part
LIBRARIES = ("diffusers", "transformers", None)  # whose classes a checkpoint may name; nothing else of it is run
CHECKER = "safety_checker"


def parts_of(model: Pipeline) -> Parts:
    """Library and class of every part that a checkpoint names.

    Raises:
        ConfigError: a part is not there, lacks the file that says what it is, or is of another library.
    """
    said = read_json(model.folder() / model.mark)
    parts = {name: (value[0], value[1]) for name, value in said.items() if isinstance(value, list) and len(value) == 2}
    own = {CHECKER: "stable_diffusion"}  # diffusers' old name of the module that has it
    for name, (library, kind) in parts.items():
        if not name.isidentifier():  # it is the name of a folder, too
            raise ConfigError(f"the model {model.repo} cannot be loaded: its {model.mark} names a part {name!r}")
        if library not in (*LIBRARIES, own.get(name)) or str(kind).endswith("Pipeline"):  # one names parts of its own
            raise ConfigError(
                f"the model {model.repo} cannot be loaded: its {model.mark} wants {name} to be {library}.{kind}, and "
                "only parts of diffusers and transformers are loaded"
            )
        if library is None:
            continue
        if not (model.folder() / name).is_dir():
            raise ConfigError(
                f"the model {model.repo} is not whole: its {model.mark} names the part {name}, and there is no such "
                "folder: fetch the checkpoint again"
            )
        marks = _marks(str(kind))
        if not any((model.folder() / name / mark).is_file() for mark in marks):
            raise ConfigError(
                f"the model {model.repo} is not whole: its part {name} has no {' or '.join(marks)}: fetch the "
                "checkpoint again"
            )
    return parts


def _marks(kind: str) -> tuple[str, ...]:
    """The files of which a part of this class must have one; without them some would come up empty."""
    if "Tokenizer" in kind:
        return "tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model"
    if "Scheduler" in kind:
        return ("scheduler_config.json",)
    if "Processor" in kind or "Extractor" in kind:
        return "preprocessor_config.json", "processor_config.json"
    return ("config.json",)


def networks(model: Pipeline, parts: Parts, device: str) -> dict[str, Any]:
    """The networks of transformers, each whole: diffusers would load one with random weights."""
    import torch
    import transformers

    found = {}
    for name, (library, kind) in parts.items():
        source = getattr(transformers, kind or "", None) if library == "transformers" else None
        if isinstance(source, type) and issubclass(source, torch.nn.Module) and name != CHECKER:
            found[name] = load_from(source, model.folder() / name, model, device, use_safetensors=True)
    return found


def check_weights(pipeline: Any, model: Pipeline) -> None:
    """That each network of a pipeline has all of its weights; diffusers leaves those that it does not find without
    a value.

    Raises:
        ConfigError: one has not.
    """
    import torch

    for part, network in pipeline.components.items():
        if not isinstance(network, torch.nn.Module):
            continue
        if lacking := sorted(name for name, weight in network.state_dict().items() if weight.is_meta):
            raise ConfigError(
                f"the model {model.repo} ({part}) cannot be used: {len(lacking)} of its weights are missing, such as "
                f"{lacking[0]!r}: fetch the checkpoint again"
            )
