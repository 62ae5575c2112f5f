"""Repositories, their refs and their history, as `/api` shows and changes them."""

import json
import re
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub.access import Refusal, at, belongs, caller, must_write, origin, repo, store, writable
from hub.pages import paged
from hub.store import Commit, Repo

# https://git-scm.com/docs/git-check-ref-format
_NO_TAG = re.compile(r"^$|^@$|^[-./]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|[./]$")


async def whoami(request: Request) -> Response:
    if (who := caller(request)) is None:
        raise Refusal(401, "Invalid username or password.")
    token = {"displayName": "a token", "role": who.role}
    orgs = [{"type": "org", "name": org, "roleInOrg": "admin"} for org in who.orgs]
    return JSONResponse({"type": "user", "name": who.user, "orgs": orgs, "auth": {"accessToken": token}})


async def create(request: Request) -> Response:
    name, asked = await _named(request)
    if store(request).repo(name):
        url = f"{origin(request)}/datasets/{name}"
        raise Refusal(409, "You already created this dataset repo", url=url, name=name)
    store(request).create(name, asked.get("visibility") == "private")
    return JSONResponse({"url": f"{origin(request)}/datasets/{name}", "name": name})


async def delete(request: Request) -> Response:
    name, _ = await _named(request)
    if store(request).repo(name) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    store(request).delete_repo(name)
    return JSONResponse({})


async def change(request: Request) -> Response:
    """`visibility` and `gated`, of what `update_repo_settings` can say."""
    name, asked = writable(request).name, await request.json()
    if "visibility" in asked:
        store(request).change(name, private=asked["visibility"] == "private")
    if "gated" in asked:
        store(request).change(name, gated=asked["gated"] or "")
    return JSONResponse({})


async def info(request: Request) -> Response:
    """What there is to say about a repository; `?expand=` asks for some of it, and gets all."""
    request.path_params.setdefault("rev", "main")
    found = repo(request)
    commit = at(request, found)
    return JSONResponse(_info(request, found, commit))


async def refs(request: Request) -> Response:
    there = store(request).refs(repo(request).name)
    kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/", "pullRequests": "refs/pr/"}
    return JSONResponse(
        {
            kind: [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
                for ref, commit in there.items()
                if ref.startswith(prefix)
            ]
            for kind, prefix in kinds.items()
        }
    )


async def create_branch(request: Request) -> Response:
    there = writable(request)
    request.path_params["rev"] = (await request.json()).get("startingPoint") or "main"
    return _new_ref(request, there, f"refs/heads/{request.path_params['branch']}")


async def create_tag(request: Request) -> Response:
    there = writable(request)
    tag = (await request.json())["tag"]
    if _NO_TAG.search(tag):
        raise Refusal(400, f"Invalid tag name: {tag}")
    return _new_ref(request, there, f"refs/tags/{tag}")


async def delete_branch(request: Request) -> Response:
    return _delete_ref(request, f"refs/heads/{request.path_params['branch']}")


async def delete_tag(request: Request) -> Response:
    return _delete_ref(request, f"refs/tags/{request.path_params['rev']}")


async def commits(request: Request) -> Response:
    there = repo(request)
    found = store(request).history(there.name, at(request, there).id)
    return paged(request, [_commit(commit) for commit in found])


async def validate_yaml(request: Request) -> Response:
    """Whether the head of a card is a mapping in YAML; what the Hub knows of its keys is not looked at."""
    errors = []
    try:
        if not isinstance(card((await request.json())["content"]), dict):
            errors.append({"message": "the metadata is not a mapping"})
    except yaml.YAMLError as error:
        errors.append({"message": f"invalid YAML: {error}"})
    return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)


def card(text: str) -> Any:
    """What stands between the first two lines of "---"."""
    head, _, rest = text.partition("---\n")
    return yaml.safe_load(rest.partition("\n---")[0]) if not head and rest else {}


def _card_data(readme: bytes) -> Any:
    """What a card says, in JSON values, and None where nobody can read that."""
    try:
        return json.loads(json.dumps(card(readme.decode()), default=str))
    except (ValueError, TypeError, yaml.YAMLError):
        return None


def _info(request: Request, repo: Repo, commit: Commit) -> dict[str, Any]:
    readme = commit.files.get("README.md")
    text = store(request).blobs.path(readme.sha256).read_bytes() if readme else b""
    siblings = []
    for path, file in commit.files.items():
        lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": 130} if file.lfs else {}
        siblings.append({"rfilename": path, "size": file.size, "blobId": file.oid} | ({"lfs": lfs} if lfs else {}))
    return {
        "id": repo.name,
        "author": repo.name.partition("/")[0],
        "sha": commit.id,
        "private": repo.private,
        "gated": repo.gated or False,
        "disabled": False,
        "createdAt": repo.created,
        "lastModified": commit.date,
        "cardData": _card_data(text),
        "tags": [],
        "siblings": siblings,
    }


def _commit(commit: Commit) -> dict[str, Any]:
    authors = [{"user": commit.author}]
    return {"id": commit.id, "title": commit.title, "message": commit.message, "authors": authors, "date": commit.date}


async def _named(request: Request) -> tuple[str, dict[str, Any]]:
    """The repository that the body names, for someone who may make or delete it, and the body."""
    who, asked = caller(request), await request.json()
    if asked.get("type") != "dataset":
        raise Refusal(501, "only datasets are known here")
    owner = asked.get("organization") or (who.user if who else "")
    name = f"{owner}/{asked['name']}"
    if who and who.role == "write" and not belongs(who, name):
        raise Refusal(403, f'You don\'t have the rights to create a dataset under the namespace "{owner}"')
    must_write(who, name)
    return name, asked


def _new_ref(request: Request, repo: Repo, ref: str) -> Response:
    target = at(request, repo)
    if ref in store(request).refs(repo.name):
        raise Refusal(409, f"Reference already exists: {ref}")
    store(request).set_ref(repo.name, ref, target.id)
    return JSONResponse({})


def _delete_ref(request: Request, ref: str) -> Response:
    there = writable(request)
    if ref not in store(request).refs(there.name):
        raise Refusal(404, f"{ref} does not exist", "RevisionNotFound")
    store(request).delete_ref(there.name, ref)
    return JSONResponse({})
