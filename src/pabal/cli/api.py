"""The HTTP API as the command line sees it: one class, on the standard library's http.client.

The API is RabbitMQ's management API, with Pabal's own parts below /api/pabal/; docs/decisions/0011 says why no
HTTP library.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit

from pabal.cli.errors import CannotReach, Refused

DEFAULT_URL = "http://guest:guest@127.0.0.1:15672"
_PIECE_BYTES = 256 * 1024
_KEPT_SECONDS_MAX = 1.0
"""A connection idle for longer is made anew: servers close idle ones, and a change is not sent again to find
out. People think about a question for longer."""
_REASON_CHARACTERS_MAX = 400


class Address(NamedTuple):
    """Where an API is, and who asks. `shown` is the URL without a user: it may appear in messages."""

    shown: str
    tls: bool
    host: str
    port: int
    prefix: str
    user: str
    password: str | None


def parse_url(url: str) -> Address:
    """`http://user:password@host:port/prefix`, of which all but the host may be missing. ValueError: why not."""
    if "://" not in url:
        url = f"http://{url}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the port is no number from 0 to 65535, or the host is not written right") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("expected http://USER:PASSWORD@HOST:PORT, or https://")
    tls = parts.scheme == "https"
    port = port or (15671 if tls else 15672)
    prefix = parts.path.rstrip("/").removesuffix("/api")
    shown_host = f"[{host}]" if ":" in host else host
    user = "guest" if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    if parts.username is None:
        password = "guest"
    return Address(f"{parts.scheme}://{shown_host}:{port}{prefix}", tls, host, port, prefix, user, password)


def path(*parts: str) -> str:
    """A path below /api/ of parts that may hold any character: `path("queues", "/", "a b")` is "queues/%2F/a%20b"."""
    return "/".join(quote(part, safe="") for part in parts)


class Api:
    """A connection to one API, opened at the first request and kept."""

    def __init__(self, address: Address, *, ca: str | None = None, timeout_seconds: float = 60.0) -> None:
        self.address = address
        self._timeout_seconds = timeout_seconds
        self._ca = ca
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        token = base64.b64encode(f"{address.user}:{address.password or ''}".encode()).decode("ascii")
        self._headers = {"Authorization": f"Basic {token}", "Accept": "application/json"}

    def get(self, where: str, **query: Any) -> Any:
        return self.request("GET", where, query=query)

    def put(self, where: str, body: Any = None) -> Any:
        return self.request("PUT", where, body={} if body is None else body)

    def post(self, where: str, body: Any = None) -> Any:
        return self.request("POST", where, body={} if body is None else body)

    def delete(self, where: str, *, headers: Mapping[str, str] | None = None, query: Any = None) -> Any:
        return self.request("DELETE", where, query=query, headers=headers)

    def request(
        self,
        method: str,
        where: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's JSON, or None where it has none. Raises Refused and CannotReach."""
        answer = self._send(method, where, query, body, headers)
        try:
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except ValueError:
            raise CannotReach(
                f"{self.address.shown} answers, but not like a broker's HTTP API; is it the right port?"
            ) from None

    def stream(self, method: str, where: str, body: Any = None) -> Iterator[bytes]:
        """The answer in pieces, complete or ended by CannotReach."""
        answer = self._send(method, where, None, {} if body is None else body, {"Accept": "*/*"})
        while True:
            try:
                piece = answer.read(_PIECE_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise self._lost(error) from None
            if not piece:
                # http.client ends quietly when the peer closes within a Content-Length.
                if answer.length:
                    raise CannotReach(f"{self.address.shown}: the answer ended before it was whole; try again")
                return
            yield piece

    def lines(self, where: str, **query: Any) -> Iterator[bytes]:
        """An answer of lines, each as soon as it is there; empty ones are left out. It may end too early without an
        error: who needs to know has to know the last line."""
        answer = self._send("GET", where, query, None, None)
        while True:
            try:
                line = answer.readline()
            except (OSError, http.client.HTTPException) as error:
                raise self._lost(error) from None
            if not line:
                return
            if line.strip():
                yield line.rstrip(b"\n")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(
        self,
        method: str,
        where: str,
        query: Mapping[str, Any] | None,
        body: Any,
        headers: Mapping[str, str] | None,
    ) -> http.client.HTTPResponse:
        target = f"{self.address.prefix}/api/{where}"
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        if asked:
            target += "?" + urlencode(asked, doseq=True)
        content = None if body is None else json.dumps(body).encode()
        all_headers = {**self._headers, **(headers or {})}
        if content is not None:
            all_headers["Content-Type"] = "application/json"
        if time.monotonic() - self._used_at > _KEPT_SECONDS_MAX:
            self.close()
        fresh = self._connection is None
        try:
            answer = self._exchange(method, target, content, all_headers)
        except (ssl.SSLCertVerificationError, TimeoutError) as error:
            raise self._lost(error) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A kept connection may have been closed by the server for idleness: asking anew repeats nothing then,
            # because no answer began. Only what may be repeated is.
            if fresh or method != "GET":
                raise self._lost(error) from None
            try:
                answer = self._exchange(method, target, content, all_headers)
            except (OSError, http.client.HTTPException) as again:
                raise self._lost(again) from None
        if 200 <= answer.status < 300:
            return answer
        raise self._refused(answer)

    def _exchange(
        self, method: str, target: str, content: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        if self._connection is None:
            self._connection = self._connected()
        self._connection.request(method, target, content, dict(headers))
        answer = self._connection.getresponse()
        self._used_at = time.monotonic()
        return answer

    def _connected(self) -> http.client.HTTPConnection:
        host, port = self.address.host, self.address.port
        if not self.address.tls:
            return http.client.HTTPConnection(host, port, timeout=self._timeout_seconds)
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            raise CannotReach(f"cannot read the certificates of {self._ca}: {_why(error)}; see --ca") from None
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_seconds, context=context)

    def _lost(self, error: Exception) -> CannotReach:
        self.close()
        shown = self.address.shown
        if isinstance(error, ssl.SSLCertVerificationError):
            return CannotReach(f"cannot trust {shown}: {error.verify_message}; --ca FILE names who signed it")
        if isinstance(error, ssl.SSLError):
            return CannotReach(f"cannot reach {shown}: {_why(error)}; does it speak https? otherwise: http://")
        if isinstance(error, http.client.HTTPException) and not isinstance(error, ConnectionError):
            return CannotReach(
                f"{shown} answers, but not in HTTP; is it the right port? (AMQP has another than the API)"
            )
        local = self.address.host in ("127.0.0.1", "localhost", "::1")
        ask = "is `pabal serve` running?" if local else "is the broker running there?"
        return CannotReach(f"cannot reach {shown}: {_why(error)}; {ask} other address: --url or PABAL_URL")

    def _refused(self, answer: http.client.HTTPResponse) -> Refused:
        try:
            text = answer.read(1 << 20)
        except (OSError, http.client.HTTPException):
            text = b""
        self.close()
        error, reason = _said(text)
        user = self.address.user
        if answer.status == 401 and error != "not_authorised":  # RabbitMQ's two spellings: who one is, what one may
            return Refused(
                401,
                f"{self.address.shown} does not let '{user}' in ({reason or 'no reason given'}); "
                "check user and password: --url, --user, PABAL_PASSWORD",
            )
        if answer.status in (401, 403):
            return Refused(
                answer.status,
                f"'{user}' may not do that ({reason.rstrip('.')}); `pabal permissions list {user}` says what it may",
            )
        return Refused(answer.status, reason or f"{answer.status} {answer.reason}")


def _said(text: bytes) -> tuple[str, str]:
    """RabbitMQ's errors are {"error": …, "reason": …}, of which reason says more."""
    try:
        given = json.loads(text)
    except ValueError:
        return "", ""
    if not isinstance(given, dict):
        return "", ""
    error = str(given.get("error") or "")
    reason = str(given.get("reason") or error)
    return error, re.sub(r"\s+", " ", reason).strip()[:_REASON_CHARACTERS_MAX]


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror
    return str(error) or type(error).__name__
