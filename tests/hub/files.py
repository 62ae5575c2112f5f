"""The files of a commit: listed, read, and changed by the next commit."""

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from hub.access import Refusal, at, caller, content, must_fit, named, origin, repo, signed, store, writable
from hub.blobs import by_lfs, git_oid, pointer
from hub.pages import paged
from hub.store import Commit, File, Store


async def tree(request: Request) -> Response:
    commit, folder = at(request, repo(request)), request.path_params.get("path", "").strip("/")
    below = f"{folder}/" if folder else ""
    if below and not any(path.startswith(below) for path in commit.files):
        raise Refusal(404, f"{folder} does not exist on {request.path_params['rev']}", "EntryNotFound", commit.id)
    wanted = (path for path in sorted({*commit.files, *_folders(commit)}) if path.startswith(below))
    if request.query_params.get("recursive", "").lower() != "true":
        wanted = (path for path in wanted if "/" not in path.removeprefix(below))
    expand = request.query_params.get("expand", "").lower() == "true"
    return paged(request, [_entry(request, commit, path, expand) for path in wanted])


async def paths_info(request: Request) -> Response:
    commit, form = at(request, repo(request)), parse_qs((await request.body()).decode())
    there = {*commit.files, *_folders(commit)}
    wanted = [path for path in form.get("paths", ()) if path in there]
    expand = form.get("expand", [""])[0].lower() == "true"
    return JSONResponse([_entry(request, commit, path, expand) for path in wanted])


async def resolve(request: Request) -> Response:
    """A file, or where it is to be had."""
    there, path = content(request), request.path_params["path"]
    commit = at(request, there)
    if (file := commit.files.get(path)) is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", commit.id)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if xet := store(request).xet_hash(file.sha256):
        route = f"{origin(request)}/api/datasets/{there.name}/xet-read-token/{commit.id}"
        headers |= {"X-Xet-Hash": xet, "Link": f'<{route}>; rel="xet-auth"'}
    if file.lfs and request.app.state.settings.cdn:
        url = signed(request, f"/cdn/{file.sha256}").replace("//127.0.0.1:", "//localhost:")
        return RedirectResponse(url, 302, headers)
    return FileResponse(store(request).blobs.path(file.sha256), headers=headers)


async def preupload(request: Request) -> Response:
    """How each file is to come, and what is there under its name; nothing is ignored by a .gitignore."""
    _no_pull_request(request)
    there, asked = at(request, writable(request)).files, (await request.json())["files"]
    answer = []
    for path, size in ((file["path"], file["size"]) for file in asked):
        mode = "lfs" if by_lfs(path, size) else "regular"
        oid = {"oid": there[path].etag} if path in there else {}
        answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
    return JSONResponse({"files": answer})


async def commit(request: Request) -> Response:
    """The whole commit, or none of it."""
    _no_pull_request(request)
    repository, kept = writable(request), store(request)
    head, *changes = [json.loads(line) for line in (await request.body()).splitlines()]
    ref = _branch(kept, repository.name, request.path_params["rev"])
    author = caller(request)
    assert author is not None
    with kept.transaction():
        last = kept.commit(repository.name, ref)
        assert last is not None
        if head["value"].get("parentCommit", last.id) != last.id:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = _changed(kept, last.files, changes)
        must_fit(request, repository, sum(file.size for file in files.values() if not file.commit))
        title, message = head["value"]["summary"], head["value"].get("description", "")
        new = kept.insert_commit(repository.name, ref, title, files, message, author.user)
    url = f"{origin(request)}/datasets/{repository.name}/commit/{new}"
    return JSONResponse({"success": True, "commitOid": new, "commitUrl": url, "hookOutput": ""})


def _branch(kept: Store, name: str, revision: str) -> str:
    """The full name of a branch; tags and commits stay what they are."""
    ref = f"refs/heads/{revision.removeprefix('refs/heads/')}"
    if ref not in kept.refs(name):
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return ref


def _changed(kept: Store, files: Mapping[str, File], changes: list[dict[str, Any]]) -> dict[str, File]:
    """The files after the changes; the new ones without a commit."""
    after = dict(files)
    for change in changes:
        value = change["value"]
        path = value["path"].strip("/")
        match change["key"]:
            case "file":
                data = base64.b64decode(value["content"])
                after[path] = File.in_git(kept.blobs.add(data), data)
            case "lfsFile":
                after[path] = _uploaded(kept, value["oid"])
            case "deletedFile" if path in after:
                del after[path]
            case "deletedFolder" if any(file.startswith(f"{path}/") for file in after):
                after = {file: there for file, there in after.items() if not file.startswith(f"{path}/")}
            case "deletedFile" | "deletedFolder":
                raise Refusal(404, f"A file to delete does not exist: {path}", "EntryNotFound")
            case key:
                raise Refusal(501, f"a commit with {key}")
    return after


def _uploaded(kept: Store, sha256: str) -> File:
    """A file whose content was uploaded before the commit."""
    blob = kept.blobs.path(sha256)
    if not blob.exists():
        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
    return File.in_lfs(sha256, blob.stat().st_size)


def _no_pull_request(request: Request) -> None:
    if "create_pr" in request.query_params:
        raise Refusal(501, "pull requests are not known here")


def _folders(commit: Commit) -> set[str]:
    return {path[:at] for path in commit.files for at, letter in enumerate(path) if letter == "/"}


def _entry(request: Request, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    """What a listing says of a file or folder; `expand` adds the commit that brought it, and what a scan found."""
    file = commit.files.get(path)
    last = store(request).commit(named(request), file.commit if file else commit.id) if expand else None
    more: dict[str, Any] = {"lastCommit": {"id": last.id, "title": last.title, "date": last.date}} if last else {}
    if file is None:
        return {"type": "directory", "path": path, "oid": git_oid(path.encode()), "size": 0, **more}
    if expand:
        more["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    if file.lfs:
        size = len(pointer(file.sha256, file.size))
        more["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": size}
    if xet := store(request).xet_hash(file.sha256):
        more["xetHash"] = xet
    return {"type": "file", "path": path, "oid": file.oid, "size": file.size, **more}
