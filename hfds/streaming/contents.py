"""Contents: the members of a sample, where its bytes are what its index says."""

import json
from collections.abc import Mapping
from typing import Any

from hfds.archive import BLOCK
from hfds.errors import BadRow
from hfds.streaming.rows import Spot


def members(data: bytes, spot: Spot) -> dict[str, memoryview]:
    """The members of a sample by extension, where its bytes are what its index says.

    Raises:
        BadRow: "index_mismatch".
    """
    found: dict[str, memoryview] = {}
    view, at, key = memoryview(data), 0, b""
    while at < len(data):
        header = data[at : at + BLOCK]
        name, dot, extension = header[:100].rstrip(b"\0").partition(b".")
        digits = header[124:135]
        if len(header) < BLOCK or header[257:262] != b"ustar" or not dot or not _octal(digits):
            raise BadRow("index_mismatch", f"no header of a member at byte {spot.start + at:,}")
        if key and name != key:
            raise BadRow("index_mismatch", f"members of two samples at byte {spot.start + at:,}")
        key, size = name, int(digits, 8)
        if not found and (spot.start + at + BLOCK, size) != (spot.picture, spot.length):
            raise BadRow("index_mismatch", f"a picture of {size:,} bytes at byte {spot.start + at + BLOCK:,}")
        at += BLOCK
        if at + size > len(data):
            raise BadRow("index_mismatch", f"a member that ends behind its sample at byte {spot.start + at:,}")
        found[extension.decode("utf-8", "replace")] = view[at : at + size]
        at += -(-size // BLOCK) * BLOCK
    return found


def row_of(found: Mapping[str, memoryview], id_: str) -> dict[str, Any]:
    """The JSON of a sample.

    Raises:
        BadRow: "index_mismatch": there is none, or it is of another row.
    """
    try:
        said = json.loads(bytes(found["json"]))
    except (KeyError, ValueError, RecursionError):
        raise BadRow("index_mismatch", "no JSON in the member for it") from None
    if not isinstance(said, dict) or said.get("id") != id_:
        raise BadRow("index_mismatch", "the sample of another row")
    return said


def _octal(digits: bytes) -> bool:
    return len(digits) == 11 and not digits.strip(b"01234567")
