"""Contents that come by LFS, whole ("basic") or in parts ("multipart"), to URLs that are signed and need no token."""

import hashlib
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from hub.access import Refusal, must_be_signed, must_fit, repo, signed, store, writable
from hub.blobs import sha256_of


async def batch(request: Request) -> Response:
    """Where to bring each content; nowhere when it is there."""
    there, asked = writable(request), (await request.json())["objects"]
    missing = [one for one in asked if not store(request).blobs.path(one["oid"]).exists()]
    must_fit(request, there, sum(one["size"] for one in missing))
    objects = [one | ({"actions": _actions(request, **one)} if one in missing else {}) for one in asked]
    return JSONResponse({"transfer": "basic", "objects": objects})


async def put(request: Request) -> Response:
    """A whole content, which must be what its name says."""
    must_be_signed(request)
    file = await received(request)
    _keep(request, file, request.path_params["sha256"])
    return Response()


async def put_part(request: Request) -> Response:
    must_be_signed(request)
    file = await received(request)
    with file.open("rb") as data:
        etag = hashlib.file_digest(data, "md5").hexdigest()
    file.replace(_part(request, request.path_params["number"]))
    return Response(headers={"ETag": f'"{etag}"'})


async def complete(request: Request) -> Response:
    """Puts the parts together."""
    must_be_signed(request)
    whole = store(request).blobs.incoming()
    parts = [_part(request, part["partNumber"]) for part in (await request.json())["parts"]]
    with whole.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    _keep(request, whole, request.path_params["sha256"])
    for part in parts:
        part.unlink()
    return JSONResponse({})


async def verify(request: Request) -> Response:
    repo(request)
    asked = await request.json()
    blob = store(request).blobs.path(asked["oid"])
    if not blob.exists() or blob.stat().st_size != asked["size"]:
        raise Refusal(404, f"there is no {asked['oid']} of {asked['size']} bytes")
    return JSONResponse({})


async def cdn(request: Request) -> Response:
    """A content on the server that files are redirected to."""
    must_be_signed(request)
    return FileResponse(store(request).blobs.path(request.path_params["sha256"]))


async def received(request: Request) -> Path:
    """The body, in a file of its own."""
    file = store(request).blobs.incoming()
    try:
        with file.open("wb") as out:
            async for piece in request.stream():
                out.write(piece)
    except BaseException:
        file.unlink()
        raise
    return file


def _actions(request: Request, oid: str, size: int) -> dict[str, Any]:
    verify = request.url.path.replace("objects/batch", "verify")
    length = request.app.state.settings.part
    upload: dict[str, Any] = {"href": signed(request, f"/lfs/{oid}")}
    if size > length:
        numbers = range(1, -(-size // length) + 1)
        header = {f"{number:05}": signed(request, f"/lfs/{oid}/{number}") for number in numbers}
        upload["header"] = {"chunk_size": str(length), **header}
    return {"upload": upload, "verify": {"href": str(request.url.replace(path=verify))}}


def _part(request: Request, number: int) -> Path:
    return store(request).blobs.part(f"{request.path_params['sha256']}-{number}")


def _keep(request: Request, file: Path, sha256: str) -> None:
    if (found := sha256_of(file)) != sha256:
        file.unlink()
        raise Refusal(400, f"the sha256 of what came is {found}, not {sha256}")
    store(request).blobs.keep(file, sha256)
