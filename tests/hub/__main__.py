"""A Hub of its own on localhost: `python -m hub FOLDER`, as `make hub` does."""

import argparse
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

import uvicorn

from hub.app import Server, Settings
from hub.store import Store, Token

HELP = """A Hub on {url}, kept in {folder}. In another shell:

  export HF_ENDPOINT={url} HF_TOKEN=hf_write
  hf auth whoami       # "me", who may write to me/... and org/...; hf_read may only read

Ctrl-C ends it; what was pushed stays.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="hub", description="a Hub on localhost")
    parser.add_argument("folder", type=Path, help="where it is kept")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--page", type=int, default=Settings.page, help="entries on a page of a list")
    parser.add_argument("--part", type=int, default=Settings.part, help="bytes above which LFS contents come in parts")
    parser.add_argument("--cdn", action="store_true", help="redirect files to another host")
    parser.add_argument("--child", action="store_true", help="say the URL only, and end with who started it")
    options = parser.parse_args()

    listener = socket.socket(proto=socket.IPPROTO_TCP)  # else asyncio lets small answers wait
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", options.port))
    except OSError as error:
        parser.exit(1, f"hub: port {options.port}: {error.strerror}\n")
    listener.listen(128)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    store = Store(options.folder)
    store.add_token("hf_write", Token("me", "write", ("org",)))
    store.add_token("hf_read", Token("me", "read", ("org",)))
    print(url if options.child else HELP.format(url=url, folder=options.folder), flush=True)
    if options.child:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    server = Server(store, Settings(options.page, options.part, options.cdn))
    config = uvicorn.Config(
        server, http="h11", lifespan="off", log_level="error", access_log=False, proxy_headers=False
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listener])


def _end_with_parent() -> None:
    """Ends the process when the other end of its standard input is closed."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
