"""The server: what it knows, what it notes, and what goes wrong on demand.

Routes are matched against the path as it was sent: `tree/main/data%2Fx` names one folder, `refs%2Fpr%2F1` one revision.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from hub import files, lfs, repos, xet
from hub.access import Refusal, refused, shown
from hub.faults import Fault, Held, due, suffer
from hub.store import Store

UNKNOWN = (405, 501)  # what no handler answers on purpose but for something that this Hub does not know


@dataclass(frozen=True)
class Settings:
    """Entries on a page of a list, bytes above which LFS contents come in parts, whether files are redirected to
    another host."""

    page: int = 1000
    part: int = 64_000_000
    cdn: bool = False


class _Quoted(Convertor[str]):
    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value)


class _QuotedPath(_Quoted):
    regex = ".+"


register_url_convertor("q", _Quoted())
register_url_convertor("qpath", _QuotedPath())


async def harnesses(_: Request) -> Response:
    """The clients' first question in a new home."""
    return JSONResponse({"standardEnvVars": [], "harnesses": []})


API = "/api/datasets/{owner:q}/{name:q}"
ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/api/whoami-v2", repos.whoami),
    ("GET", "/api/agent-harnesses", harnesses),
    ("POST", "/api/validate-yaml", repos.validate_yaml),
    ("POST", "/api/repos/create", repos.create),
    ("DELETE", "/api/repos/delete", repos.delete),
    ("GET", API, repos.info),
    ("GET", API + "/revision/{rev:q}", repos.info),
    ("PUT", API + "/settings", repos.change),
    ("GET", API + "/refs", repos.refs),
    ("GET", API + "/commits/{rev:q}", repos.commits),
    ("POST", API + "/branch/{branch:q}", repos.create_branch),
    ("DELETE", API + "/branch/{branch:q}", repos.delete_branch),
    ("POST", API + "/tag/{rev:q}", repos.create_tag),
    ("DELETE", API + "/tag/{rev:q}", repos.delete_tag),
    ("GET", API + "/tree/{rev:q}", files.tree),
    ("GET", API + "/tree/{rev:q}/{path:qpath}", files.tree),
    ("POST", API + "/paths-info/{rev:q}", files.paths_info),
    ("POST", API + "/preupload/{rev:q}", files.preupload),
    ("POST", API + "/commit/{rev:q}", files.commit),
    ("GET", "/datasets/{owner:q}/{name:q}/resolve/{rev:q}/{path:qpath}", files.resolve),
    ("POST", "/datasets/{owner:q}/{name:q}.git/info/lfs/objects/batch", lfs.batch),
    ("POST", "/datasets/{owner:q}/{name:q}.git/info/lfs/verify", lfs.verify),
    ("PUT", "/lfs/{sha256}", lfs.put),
    ("POST", "/lfs/{sha256}", lfs.complete),
    ("PUT", "/lfs/{sha256}/{number:int}", lfs.put_part),
    ("GET", "/cdn/{sha256}", lfs.cdn),
    ("GET", API + "/xet-write-token/{rev:q}", xet.write_token),
    ("GET", API + "/xet-read-token/{rev:q}", xet.read_token),
    ("POST", "/cas/v1/xorbs/default/{hash}", xet.put_xorb),
    ("POST", "/cas/v1/shards", xet.put_shard),
    ("GET", "/cas/v1/reconstructions/{hash}", xet.reconstruction),
    ("GET", "/cas/xorbs/{hash}", xet.get_xorb),
    ("GET", "/cas/v1/chunks/default/{hash}", xet.nothing),
    ("POST", "/cas/v1/xorb-grants/default/{hash}", xet.nothing),
    ("POST", "/cas/v2/shards", xet.nothing),
    ("GET", "/cas/v2/reconstructions/{hash}", xet.nothing),
    ("POST", "/v1/telemetry", xet.nothing),
)


async def unknown(request: Request) -> Response:
    raise Refusal(501, f"{request.method} {request.url.path} is not known here")


class Server:
    """The ASGI application. It writes every request to log.jsonl, before it is answered."""

    def __init__(self, store: Store, settings: Settings) -> None:
        routes = [Route(path, handler, methods=[method]) for method, path, handler in ROUTES]
        routes.append(Route("/{anything:path}", unknown))
        self._app = Starlette(routes=routes, exception_handlers={Refusal: refused})
        self._app.state.store, self._app.state.settings = store, settings
        self._faults: list[Fault] = []
        self._held = Held()
        self._log = (store.root / "log.jsonl").open("a", buffering=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, query = scope["raw_path"].decode(), scope["query_string"].decode()
        scope = {**scope, "path": path}
        if path == "/-/faults":
            return await self._control(scope, receive, send)
        request = f"{scope['method']} {path}{'?' if query else ''}{query}"
        token = "" if path.startswith("/cas/") else shown(Request(scope))
        size = Request(scope).headers.get("content-length", "")
        more = {"token": token, "bytes": size}
        self._note(request=request, **{name: value for name, value in more.items() if value})
        if fault := due(self._faults, request):
            return await suffer(fault, request, self._held, self._answer, scope, receive, send)
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = f"{scope['method']} {scope['path']}"

        async def watched(message: Message) -> None:
            if message.get("status") in UNKNOWN:
                self._note(unknown=request)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            pass  # whoever asked is gone
        except Exception as error:
            self._note(unknown=f"{request}: {error!r}")
            raise

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The faults that are left and the requests that are held, or other faults in their place."""
        request = Request(scope, receive)
        if request.method == "PUT":
            self._faults = [Fault(**fault) for fault in await request.json()]
            self._held.let_go()
        left = [asdict(fault) for fault in self._faults]
        await JSONResponse({"faults": left, "held": self._held.requests})(scope, receive, send)

    def _note(self, **what: str) -> None:
        self._log.write(json.dumps(what) + "\n")
