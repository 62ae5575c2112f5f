"""Lists that are longer than a page."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


def paged(request: Request, items: list[Any]) -> Response:
    """The page that the URL asks for, with a link to the next one."""
    start, length = int(request.query_params.get("cursor", 0)), request.app.state.settings.page
    link = request.url.include_query_params(cursor=start + length)
    headers = {"Link": f'<{link}>; rel="next"'} if start + length < len(items) else {}
    return JSONResponse(items[start : start + length], headers=headers)
