"""Contents that come and go by Xet: files as pieces of xorbs, which are rows of compressed chunks.

Formats as the Xet protocol describes them (huggingface.co/docs/xet). What a shard says of a file is tried at once: the
file is put together, and must have the sha256 that the shard says. So files that came by Xet are also there for HTTP.
Chunks are not looked for among those that are there, and neither hashes of chunks nor those of xorbs are computed.
"""

import hmac
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from hub.access import Refusal, content, must_be_signed, must_fit, origin, sign, signed, store, writable
from hub.blobs import sha256_of
from hub.lfs import received
from hub.store import Store

LIFE = 3600  # seconds that a token holds
END = b"\xff" * 32  # instead of a hash: no more files in this shard
VERIFIED, DESCRIBED = 1 << 31, 1 << 30  # flags of a file in a shard


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in its xorb, header included, and how it is compressed."""

    start: int
    stop: int
    scheme: int
    size: int  # of what is in it


async def write_token(request: Request) -> Response:
    must_fit(request, writable(request), 0)
    return _token(request, "write")


async def read_token(request: Request) -> Response:
    content(request)
    return _token(request, "read")


async def put_xorb(request: Request) -> Response:
    _must_hold(request, "write")
    path = store(request).blobs.xorb(request.path_params["hash"])
    new = not path.exists()
    (await received(request)).replace(path)
    return JSONResponse({"was_inserted": new})


async def put_shard(request: Request) -> Response:
    _must_hold(request, "write")
    for hash_, terms, sha256 in files_of(await request.body()):
        _put_together(store(request), hash_, terms, sha256)
    return JSONResponse({"result": 1})


async def reconstruction(request: Request) -> Response:
    """Which chunks of which xorbs a file, or a range of it, is made of, and where they are to be had."""
    _must_hold(request, "read")
    if (found := store(request).xet_terms(request.path_params["hash"])) is None:
        raise Refusal(404, "no such file")
    size, terms = found
    first, _, last = request.headers.get("range", "").removeprefix("bytes=").partition("-")
    start, stop = int(first or 0), min(int(last) + 1 if last else size, size)
    if start >= stop:
        raise Refusal(416, f"the file ends at {size}")
    return JSONResponse(_reconstruction(request, terms, start, stop))


async def get_xorb(request: Request) -> Response:
    must_be_signed(request)
    return FileResponse(store(request).blobs.xorb(request.path_params["hash"]))


async def nothing(_: Request) -> Response:
    """What the clients do without: known chunks, grants, later versions of the protocol, telemetry."""
    return Response(status_code=404)


def chunks_of(data: bytes) -> list[Chunk]:
    """The chunks of a xorb; what comes behind them is a table of the same."""
    chunks, at = [], 0
    while at < len(data) and data[at] == 0:  # the version, where the table has a name
        packed, scheme, size = int.from_bytes(data[at + 1 : at + 4], "little"), data[at + 4], data[at + 5 : at + 8]
        chunks.append(Chunk(at, at + 8 + packed, scheme, int.from_bytes(size, "little")))
        at += 8 + packed
    return chunks


def unpacked(data: bytes, chunk: Chunk) -> bytes:
    """What is in a chunk of the xorb `data`."""
    body = data[chunk.start + 8 : chunk.stop]
    if chunk.scheme == 0:
        return body
    plain = pa.decompress(body, chunk.size, codec="lz4", asbytes=True)
    return plain if chunk.scheme == 1 else _ungrouped(plain)


def files_of(shard: bytes) -> Iterator[tuple[str, list[list[Any]], str]]:
    """Of each file of a shard: its hash, its terms (xorb, first chunk, chunk behind the last), its sha256."""
    at = 48  # behind the header
    while (name := shard[at : at + 32]) != END:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        rows = [shard[at + 48 * row : at + 48 * row + 48] for row in range(1, count + 1)]
        terms = [[hash_text(row[:32]), *struct.unpack_from("<II", row, 40)] for row in rows]
        at += 48 * (1 + count * (2 if flags & VERIFIED else 1))
        if not flags & DESCRIBED:
            raise Refusal(400, "a file of the shard has no sha256")
        yield hash_text(name), terms, hash_text(shard[at : at + 32])
        at += 48


def hash_text(raw: bytes) -> str:
    """A hash as text: four numbers, each written from its highest digit."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def _ungrouped(grouped: bytes) -> bytes:
    """Bytes that were ordered by their place among four."""
    plain, at = bytearray(len(grouped)), 0
    for place in range(4):
        count = len(plain[place::4])
        plain[place::4] = grouped[at : at + count]
        at += count
    return bytes(plain)


def _put_together(kept: Store, hash_: str, terms: list[list[Any]], sha256: str) -> None:
    """Keeps a file that a shard describes, as a content like any other."""
    file = kept.blobs.incoming()
    with file.open("wb") as out:
        for xorb, first, stop in terms:
            data = kept.blobs.xorb(xorb).read_bytes()
            out.writelines(unpacked(data, chunk) for chunk in chunks_of(data)[first:stop])
    if (found := sha256_of(file)) != sha256:
        file.unlink()
        raise Refusal(400, f"the shard says {sha256} of a file whose sha256 is {found}")
    size = file.stat().st_size
    kept.blobs.keep(file, sha256)
    kept.add_xet(hash_, sha256, size, terms)


def _reconstruction(request: Request, terms: list[list[Any]], start: int, stop: int) -> dict[str, Any]:
    at, skip, wanted = 0, None, []
    places: dict[str, list[dict[str, Any]]] = {}
    for xorb, first, last in terms:
        chunks, inside = chunks_of(store(request).blobs.xorb(xorb).read_bytes()), []
        for number in range(first, last):
            if at < stop and at + chunks[number].size > start:
                skip = start - at if skip is None else skip
                inside.append(number)
            at += chunks[number].size
        if inside:
            span = {"start": inside[0], "end": inside[-1] + 1}
            size = sum(chunks[number].size for number in inside)
            wanted.append({"hash": xorb, "unpacked_length": size, "range": span})
            place = {"start": chunks[inside[0]].start, "end": chunks[inside[-1]].stop - 1}
            url = signed(request, f"/cas/xorbs/{xorb}")
            places.setdefault(xorb, []).append({"range": span, "url": url, "url_range": place})
    return {"offset_into_first_range": skip, "terms": wanted, "fetch_info": places}


def _token(request: Request, role: str) -> Response:
    """A token for what is below /cas, as JSON for hf_xet and in headers for huggingface_hub."""
    until = int(time.time()) + LIFE
    token = f"{role}.{until}.{sign(store(request).secret, f'{role}.{until}')}"
    url = f"{origin(request)}/cas"
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
    return JSONResponse({"casUrl": url, "exp": until, "accessToken": token}, headers=headers)


def _must_hold(request: Request, role: str) -> None:
    """Refuses whoever does not show a token that `_token` gave for this, or for more."""
    said, _, signature = request.headers.get("authorization", "").removeprefix("Bearer ").rpartition(".")
    ours = hmac.compare_digest(signature, sign(store(request).secret, said))
    if not ours or said.split(".")[0] not in (role, "write"):
        raise Refusal(401, "this token is not for this")
