"""Who may do what: tokens and their roles, refusals in the words from which the clients make exceptions, signatures."""

import hashlib
import hmac

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub.store import Commit, Repo, Store, Token

QUOTA = (
    "Private repository storage limit reached, please upgrade your plan to increase your private storage limit, or "
    "make this repository public"
)


class Refusal(Exception):
    """An answer that is not the one asked for; the clients look at `code`, then at `status`, and show `message`."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "", **more: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **more}
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


def refused(_: Request, refusal: Exception) -> Response:
    """The answer that a Refusal is."""
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


def store(request: Request) -> Store:
    kept: Store = request.app.state.store
    return kept


def named(request: Request) -> str:
    """The repository that the URL names."""
    return "{owner}/{name}".format(**request.path_params)


def shown(request: Request) -> str:
    """The token that came with a request."""
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def caller(request: Request) -> Token | None:
    """Whose token it is, None without one."""
    if not (token := shown(request)):
        return None
    if who := store(request).token(token):
        return who
    raise Refusal(401, "Invalid credentials in Authorization header")


def repo(request: Request) -> Repo:
    """The repository of the URL, for someone who may see that it is there."""
    who, name = caller(request), named(request)
    found = store(request).repo(name)
    if found is None or (found.private and not belongs(who, name)):
        raise Refusal(404 if who else 401, "Repository not found", "RepoNotFound")
    return found


def content(request: Request) -> Repo:
    """The repository of the URL, for someone who may have its files."""
    found, who = repo(request), caller(request)
    if found.gated and not belongs(who, found.name):
        message = f"Access to dataset {found.name} is restricted and you are not in the authorized list"
        raise Refusal(403 if who else 401, message, "GatedRepo")
    return found


def writable(request: Request) -> Repo:
    """The repository of the URL, for someone who may write to it."""
    found = repo(request)
    must_write(caller(request), found.name)
    return found


def must_write(who: Token | None, name: str) -> None:
    if who is None:
        raise Refusal(401, "Invalid username or password.")
    if who.role != "write":
        raise Refusal(403, "This token may only read, a token with the write role is needed")
    if not belongs(who, name):
        raise Refusal(403, f"You don't have the rights to write to {name}")


def must_fit(request: Request, repo: Repo, size: int) -> None:
    """Refuses `size` more bytes than the repository may hold."""
    if repo.quota is not None and store(request).used(repo.name) + size > repo.quota:
        raise Refusal(403, QUOTA)


def belongs(who: Token | None, name: str) -> bool:
    """Whether a repository is theirs, or their organisation's."""
    return who is not None and name.partition("/")[0] in (who.user, *who.orgs)


def at(request: Request, repo: Repo) -> Commit:
    """The commit that the URL names."""
    found = store(request).commit(repo.name, request.path_params["rev"])
    if found is None:
        raise Refusal(404, f"Invalid rev id: {request.path_params['rev']}", "RevisionNotFound")
    return found


def origin(request: Request) -> str:
    """The server as this client calls it."""
    return f"http://{request.url.netloc}"


def sign(secret: bytes, what: str) -> str:
    return hmac.new(secret, what.encode(), hashlib.sha256).hexdigest()[:32]


def signed(request: Request, path: str) -> str:
    """A URL of this server that needs no token."""
    return f"{origin(request)}{path}?signature={sign(store(request).secret, path)}"


def must_be_signed(request: Request) -> None:
    given = request.query_params.get("signature", "")
    if not hmac.compare_digest(given, sign(store(request).secret, request.url.path)):
        raise Refusal(403, "SignatureDoesNotMatch")
