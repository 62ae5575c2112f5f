"""Codes: vectors as they are compared on a device, in bfloat16, and the most that a comparison can be wrong by.

A code is a vector rounded; of many vectors of many dimensions it is a projection to their principal axes, with the
length of what the projection leaves out as one dimension more. The product of two such codes is never below the dot
product of the vectors (Cauchy-Schwarz), and rounding adds no more than the lengths of what was rounded off.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hfds.errors import MissingExtra
from processors.duplicates.vectors import LENGTH

SHAPE = 512  # codes are filled up to a multiple of it: every other shape would cost the multiplication a compilation
WIDTHS = 48, 64, 96, 128, 192  # of projected codes
ENOUGH = 65_536  # vectors from which on trying them pays
WIDEST = 1_024  # dimensions of which axes are found in less than a second
SAMPLE = 8_192  # vectors that they are found in and tried with
CHECK = 1e-6  # about the seconds that checking a pair takes
ROUNDED = 4e-3  # about what two codes in bfloat16 are wrong by
LOW = 0.05  # thresholds up to here are compared in float32: with the band taken off, they may not be positive
SLACK = 1e-6  # above all that float32 and float64 lose on the way


@dataclass(frozen=True)
class Tuning:
    """How much is compared at once, and how often that is noted; what is found does not depend on it.

    Args:
        rows: vectors that are looked for.
        columns: vectors that they are looked for among.
        width: of the codes; None for the one with which a sample is compared fastest here.
        saved: seconds after which what has been decided is written to a journal again.
    """

    rows: int
    columns: int
    width: int | None = None
    saved: float = 30

    @classmethod
    def of(cls, device: str) -> "Tuning":
        """What is fast on a device."""
        return cls(2_048, 4_096) if device == "cpu" else cls(8_192, 65_536)


class Coded(NamedTuple):
    """Vectors ready to be compared: their positions, a row of codes for each (and filling), the longest rounding."""

    positions: np.ndarray
    codes: Any
    error: float

    def take(self, numbers: np.ndarray) -> "Coded":
        """Some of them."""
        codes = self.codes.new_zeros(filled(len(numbers)), self.codes.shape[1])
        codes[: len(numbers)] = self.codes[numbers]
        return Coded(self.positions[numbers], codes, self.error)


class Columns:
    """Codes in the order in which they were added, with room for `most` of them; what is not filled costs no memory."""

    def __init__(self, coder: "Coder", most: int):
        self._positions = np.empty(most, np.int64)
        self._codes = coder.empty(filled(most) + SHAPE)
        self._count, self._error = 0, 0.0

    def add(self, coded: Coded) -> None:
        """More of them."""
        end = self._count + len(coded.positions)
        self._positions[self._count : end] = coded.positions
        self._codes[self._count : end] = coded.codes[: len(coded.positions)]
        self._codes[end : end + SHAPE] = 0  # the filling behind the last one
        self._count, self._error = end, max(self._error, coded.error)

    def blocks(self, size: int) -> Iterator[Coded]:
        """All of them, `size` at a time."""
        for at in range(0, self._count, size):
            end = min(at + size, self._count)
            yield Coded(self._positions[at:end], self._codes[at : at + filled(end - at)], self._error)


class Coder:
    """Makes the codes of `vectors`; which kind is decided by a sample of those at `positions`."""

    def __init__(self, vectors: np.ndarray, positions: np.ndarray, threshold: float, device: str, width: int | None):
        self.torch = load_torch()
        self.vectors, self.device = vectors, device
        half = threshold > LOW and _has_bfloat16(self.torch, device)
        self.dtype = self.torch.bfloat16 if half else self.torch.float32
        self.axes = self._axes(positions, threshold, width)
        self.width: int = vectors.shape[1] if self.axes is None else self.axes.shape[1] + 1

    def empty(self, count: int) -> Any:
        """Room for `count` codes."""
        return self.torch.empty((count, self.width), dtype=self.dtype, device=self.device)

    def exact(self, positions: np.ndarray) -> Any:
        """The vectors themselves, in float64."""
        return self.torch.from_numpy(np.asarray(self.vectors[positions], np.float64)).to(self.device)

    def code(self, positions: np.ndarray) -> Coded:
        """The codes of the vectors at `positions`."""
        if self.axes is None:
            wanted = self.torch.from_numpy(np.asarray(self.vectors[positions], np.float32)).to(self.device)
        else:
            wanted = _project(self.exact(positions), self.axes)
        codes = self.empty(filled(len(positions))).zero_()
        codes[: len(positions)] = wanted
        off = (codes[: len(positions)].to(wanted.dtype) - wanted).norm(dim=1)
        return Coded(positions, codes, 1.001 * float(off.max()) if len(positions) else 0.0)

    def band(self, one: Coded, other: Coded) -> float:
        """The most that a product of two codes can be below the dot product of their vectors.

        |x'y' - xy| <= |x' - x| |y'| + |x| |y' - y|, and a sum of n products in float32 is wrong by less than n / 2**23
        of the lengths. Rounding the result needs no room when what it is compared with is rounded the same way.
        """
        return (one.error + other.error + self.width / 2**23) * (1 + LENGTH) ** 2 + SLACK

    def _axes(self, positions: np.ndarray, threshold: float, width: int | None) -> Any:
        """The axes to project to, shape (dimensions, width of the codes - 1), or None where that does not pay."""
        dimensions = self.vectors.shape[1]
        if not len(positions) or dimensions > WIDEST or (width is None and len(positions) < ENOUGH):
            return None
        evenly = np.linspace(0, len(positions) - 1, min(len(positions), SAMPLE)).astype(np.int64)
        sample = self.exact(positions[evenly])
        axes = np.linalg.eigh((sample.T @ sample).cpu().numpy()).eigenvectors[:, ::-1].copy()  # the longest first
        axes = self.torch.from_numpy(axes).to(self.device)
        if width is None:
            seconds = {dimensions: self._seconds(sample, threshold)}
            for narrow in WIDTHS:
                if narrow < dimensions:
                    seconds[narrow] = self._seconds(_project(sample, axes[:, : narrow - 1]), threshold)
            width = min(seconds, key=lambda one: seconds[one])
        return axes[:, : width - 1].contiguous() if width < dimensions else None

    def _seconds(self, wanted: Any, threshold: float) -> float:
        """What it takes to compare a pair by such codes: to multiply them, and to check the pair if it passes."""
        codes = wanted.to(self.dtype)
        rows, columns = codes[::4].contiguous(), codes[1::2].contiguous()
        took = np.inf
        for _ in range(3):  # the first one compiles, and others may use the machine during one of the others
            start = time.perf_counter()
            product = rows @ columns.T
            float(product.amax())  # waits for the device
            took = min(took, time.perf_counter() - start)
        passing = int((product >= threshold - ROUNDED).sum())
        return (took + CHECK * passing) / (len(rows) * len(columns))


def _project(vectors: Any, axes: Any) -> Any:
    """The coordinates on the axes, and the length of the rest; never less, for all that float64 is wrong by."""
    on = vectors @ axes
    rest = (vectors.norm(dim=1).square() - on.norm(dim=1).square()).clamp(min=0) + 1e-12
    return load_torch().cat([on, rest.sqrt()[:, None]], dim=1)


def filled(count: int) -> int:
    """The rows of codes that hold `count` vectors."""
    return -(-count // SHAPE) * SHAPE


def load_torch() -> Any:
    """The module torch.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra("MarkDuplicates", "torch", "models") from None
    return torch


def accelerator() -> str:
    """The device that multiplies fastest here, as torch calls it."""
    return "cuda:0" if load_torch().cuda.is_available() else "cpu"


def _has_bfloat16(torch: Any, device: str) -> bool:
    """Whether a device multiplies bfloat16 by itself, faster than float32."""
    if device == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def summed_in_float32(device: str) -> Iterator[None]:
    """Products of bfloat16 are summed in float32 inside: by default, an accelerator may round parts of a sum."""
    if device == "cpu":
        yield
        return
    settings = load_torch().backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before
