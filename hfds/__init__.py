"""Public image-text sources turned into releases in which every row is accounted for.

Importing this costs nothing; every name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfds.annotator import ModelAnnotator
    from hfds.builder import Builder, Piece, SourceConfig
    from hfds.catalogue import load
    from hfds.errors import HfdsError
    from hfds.explode import Explode
    from hfds.model import Lora, Model, Pipeline
    from hfds.processor import Annotator, Filter, Step, WholeDataset
    from hfds.reading import load_release
    from hfds.record import FEATURES
    from hfds.release import Built, Input, Release, build
    from hfds.run import Run
    from hfds.streaming.stream import stream

_HOMES = {
    "load": "catalogue",
    "load_release": "reading",
    "build": "release",
    "Release": "release",
    "Input": "release",
    "Built": "release",
    "Run": "run",
    "Builder": "builder",
    "SourceConfig": "builder",
    "Piece": "builder",
    "Step": "processor",
    "Annotator": "processor",
    "ModelAnnotator": "annotator",
    "Explode": "explode",
    "Model": "model",
    "Pipeline": "model",
    "Lora": "model",
    "Filter": "processor",
    "WholeDataset": "processor",
    "FEATURES": "record",
    "stream": "streaming.stream",
    "HfdsError": "errors",
}

__all__ = [
    "load", "load_release", "build", "Release", "Input", "Built", "Run",
    "Builder", "SourceConfig", "Piece", "Step", "Annotator", "ModelAnnotator", "Filter", "WholeDataset", "Explode",
    "Model", "Pipeline", "Lora", "FEATURES", "stream", "HfdsError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hfds' has no attribute {name!r}")
    return getattr(import_module(f"hfds.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
