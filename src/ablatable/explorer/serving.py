"""Serve a site on this machine alone, with nothing but the standard library."""

from __future__ import annotations

import functools
import http.server
import webbrowser
from pathlib import Path
from typing import Any

from ..errors import SettingsError, option

HOST = "127.0.0.1"


class Handler(http.server.SimpleHTTPRequestHandler):
    """A site's files, and nothing else."""

    # no guess of this machine's registry: some name a type for scripts that browsers refuse
    extensions_map = {  # noqa: RUF012 (as in the base class)
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        "": "application/octet-stream",
    }
    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        """Add what keeps a page that was made anew from being mixed with its forerunner."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        """Folders are not listed."""
        self.send_error(404, "File not found")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address was printed, and errors show in the browser."""


def file_server(folder: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server of a folder on the loopback address, not yet serving; port 0 takes a free one.

    Raises `SettingsError` when the port is taken.
    """
    handler = functools.partial(Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on port {port} ({error.strerror}); choose another {option('port')}"
        ) from None


def serve_files(folder: Path, port: int, *, open_browser: bool, announce: Any = print) -> None:
    """Serve a site until Ctrl-C."""
    with file_server(folder, port) as server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        announce(f"serving {folder} at {address} (Ctrl-C stops)")
        if open_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            announce("stopped")
