"""Decides before a request's body is read whether it is let in, and adds the headers that keep the page to itself."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.web.api.problems import problem
from inference.web.jobs.files import JobFiles
from inference.web.settings import LOOPBACK_NAMES, ServiceSettings

COOKIE = "wav2lip_session"
SESSION_PATH = "/api/session"
FREE_BYTES = 200 * 10**6  # that stay free on the disk, whatever the limit says
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# Swagger UI sets styles from its script. It shows only our own description of the API.
DOCS_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), payment=(), usb=()",
}


def session_value(token: str) -> str:
    """The cookie of a client that knows the token; the token cannot be computed from it."""
    return hmac.new(token.encode(), b"wav2lip session", hashlib.sha256).hexdigest()


class DiskBudget:
    """Bytes that uploads in progress will need, so that many at once cannot pass the limit together."""

    def __init__(self, files: JobFiles, limit: int) -> None:
        self._files, self._limit = files, limit
        self._reserved, self._lock = 0, threading.Lock()

    @contextmanager
    def reserve(self, size: int) -> Iterator[bool]:
        """Reserves `size` bytes while the context lasts; yields whether they are there."""
        with self._lock:
            wanted = self._reserved + 2 * size  # the body is spooled, then stored
            granted = (
                self._files.used_bytes() + wanted <= self._limit and wanted + FREE_BYTES <= self._files.free_bytes()
            )
            self._reserved += 2 * size if granted else 0
        try:
            yield granted
        finally:
            with self._lock:
                self._reserved -= 2 * size if granted else 0


class Gate:
    """ASGI middleware around the whole app.

    Refused are: a host name that is not ours (DNS rebinding), a request that another site's page makes, a request
    without the token if there is one, and an upload beyond the limits. No response allows another origin (CORS).
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, budget: DiskBudget) -> None:
        self._app, self._settings, self._budget = app, settings, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets the request in or refuses it."""
        if scope["type"] == "websocket":
            await self._open_socket(scope, receive, send)
            return
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        sender = _with_headers(request, send)
        refusal = self._refusal(request)
        if refusal is not None:
            await refusal(scope, receive, sender)
            return
        size = self._upload_bytes(request)
        if size == 0:
            await self._app(scope, receive, sender)
            return
        with self._budget.reserve(size) as granted:
            response = self._app if granted else problem(507, "the service's disk space is used up: try again later")
            await response(scope, receive, sender)

    async def _open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a WebSocket in or refuses it: a browser lets any page open one, so its origin must be ours."""
        if self._refusal(HTTPConnection(scope)) is None:
            await self._app(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP status 403

    def _refusal(self, request: HTTPConnection) -> Response | None:
        host = request.headers.get("host", "")
        if self._settings.token is None and not self._is_our_name(host):
            return problem(421, "this host name is not served: use the address that the service printed")
        if not request.url.path.startswith("/api/") and request.url.path != "/openapi.json":
            return None  # the page's own files, the same for everyone
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return problem(403, "requests from other sites are refused")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return problem(403, "requests from other origins are refused")
        if request.url.path != SESSION_PATH and not self._knows_token(request):
            return problem(401, "this service needs its token", {"WWW-Authenticate": "Bearer"})
        if self._declared_bytes(request) > self._settings.limits.upload_bytes:
            return problem(413, f"one request may have at most {self._settings.limits.upload_mb:g} MB")
        return None

    def _is_our_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name in (*LOOPBACK_NAMES, self._settings.host)

    def _knows_token(self, request: HTTPConnection) -> bool:
        token = self._settings.token
        if token is None:
            return True
        kind, _, sent = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), token.encode()):
            return True
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), session_value(token).encode())

    def _declared_bytes(self, request: HTTPConnection) -> int:
        declared = request.headers.get("content-length", "0")
        return int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 16 else 10**15

    def _upload_bytes(self, request: Request) -> int:
        """Bytes to reserve: what the request declares, or the most that it may have."""
        if request.method != "POST" or request.url.path == SESSION_PATH:
            return 0
        if "content-length" not in request.headers:
            return self._settings.limits.upload_bytes
        return self._declared_bytes(request)


def _with_headers(request: Request, send: Send) -> Send:
    path = request.url.path

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers["Content-Security-Policy"] = DOCS_POLICY if path.startswith("/docs") else PAGE_POLICY
            headers.setdefault("Cache-Control", "no-store" if path.startswith("/api/") else "no-cache")
        await send(message)

    return sender
