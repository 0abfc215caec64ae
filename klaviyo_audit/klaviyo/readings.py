"""What a request asks for, however it is read between here and Klaviyo."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from klaviyo_audit.klaviyo import catalog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klaviyo_audit.klaviyo.risks import Operation

# An id that means the same to every reader: no dot in front, no slash, and nothing percent-encoded
# that is a slash, a backslash, a dot, a percent sign or NUL once it is decoded.
_PLAIN_ID: Final = r"(?=[^/?#.])[^/?#%\\]*(?:%(?!2[eEfF5]|5[cC]|00)[^/?#%\\]*)*"
# What ids are mostly made of. The processor's caches are the SDK's when a URL is read: the less of
# a pattern a match runs through the better, which saves a third there.
_SIMPLE_ID: Final = "[A-Za-z0-9_-]+"
_PARAMETER: Final = re.compile(r"\\\{[^{}]*\\\}")
_MOST_DECODINGS: Final = 5
_MATRIX: Final = re.compile(";[^/]*")
# What frameworks and proxies take for the method in place of the request's own. Klaviyo documents
# none of them, and nobody knows whether something in front of it does.
OVERRIDES: Final = frozenset(("x-http-method-override", "x-http-method", "x-method-override"))
"""Names of headers, in lower case and with hyphens, that ask for another HTTP method."""
_PARAMETER_OVERRIDE: Final = "_method"
# What the SDK itself sends: all that most requests have.
_ORDINARY: Final = frozenset(("Accept", "Authorization", "Content-Type", "User-Agent", "revision"))
_METHOD: Final = re.compile(r"[A-Z]{1,16}")


class Unreadable(ValueError):  # noqa: N818  (a fact about a URL)
    """A URL that is encoded so often that nobody can say what it asks for."""


def plain(path: str) -> re.Pattern[str]:
    """What matches the URLs of an operation that can be read in one way only.

    Args:
        path: The operation's path template.
    """
    template = re.escape(path)
    simple = _PARAMETER.sub(_SIMPLE_ID, template)
    full = _PARAMETER.sub(lambda _: _PLAIN_ID, template)
    return re.compile(rf"https?://[^/?#\\]*(?:{simple}\Z|{full}/?(?:[?#]|\Z))")


def overriding(method: Any, url: str, headers: Mapping[str, Any] | None) -> str | None:
    """The HTTP method that a header or a parameter asks for in place of the request's own.

    Args:
        method: The request's own.
        url: Its URL.
        headers: Its headers.

    Returns:
        In upper case; ``OTHER`` for what can be none, and for several. None where none is asked
        for, or the request's own.
    """
    ordinary = not headers or _ORDINARY.issuperset(headers)
    if ordinary and _PARAMETER_OVERRIDE not in url:
        return None
    asked = {value for name, value in (headers or {}).items() if is_override(name)}
    if _PARAMETER_OVERRIDE in url:
        query = urlsplit(url).query
        asked |= {value for name, value in parse_qsl(query) if name == _PARAMETER_OVERRIDE}
    if not asked:
        return None
    named = {_text(one).strip().upper() for one in asked} - {str(method).upper()}
    if not named:
        return None
    only = named.pop()
    return only if not named and _METHOD.fullmatch(only) else "OTHER"


def is_override(header: Any) -> bool:
    """Whether a header of that name asks for another method; WSGI takes ``_`` for ``-``."""
    return _text(header).strip().lower().replace("_", "-") in OVERRIDES


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def readings(method: str, url: str) -> tuple[Operation, ...]:
    """The operations that a request may be.

    The first is what urllib3 sends, which resolves ``.`` and ``..``; ``get_list("")`` asks for all
    lists. Servers and proxies decode percent signs, also before they look for slashes (WSGI's
    ``PATH_INFO`` is decoded), and more than once where there are several; some take a backslash for
    a slash, merge slashes, or leave out what follows a semicolon. Each of these ways that makes
    another known operation of it adds that.

    Args:
        method: HTTP method.
        url: The URL as it is given to ``call_api``.

    Raises:
        Unreadable: It is encoded more than five times.
    """
    path = url.partition("#")[0].partition("?")[0]
    found = {(one.method, one.path): one for one in (catalog.by_url(method, path),)}
    _, separator, rest = path.partition("://")
    decoded = "/" + rest.partition("/")[2] if separator else path
    for _ in range(_MOST_DECODINGS):
        before, decoded = decoded, unquote(decoded)
        for one in (decoded, decoded.replace("\\", "/")):
            for other in dict.fromkeys((one, _MATRIX.sub("", one))):
                merged = re.sub("/{2,}", "/", other).partition("?")[0].partition("#")[0]
                operation = catalog.by_url(method, merged)
                if operation.known:
                    found.setdefault((operation.method, operation.path), operation)
        if decoded == before:
            return tuple(found.values())
    raise Unreadable
