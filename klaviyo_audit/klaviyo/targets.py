"""The call targets of the SDK's operations, made once each."""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from klaviyo_audit.calls import Target
from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.klaviyo.subjects import PLACES
from klaviyo_audit.privacy.policy import Subject

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

    from klaviyo_audit.entry import Variant

_API_PACKAGE = "openapi_client.api."

_by_code: dict[int, tuple[CodeType, Target]] = {}


@cache
def _revision() -> str | None:
    """The API revision that the SDK's client asks for."""
    from klaviyo_api import KlaviyoAPI

    revision: str | None = getattr(KlaviyoAPI, "_REVISION", None)
    return revision


@lru_cache(maxsize=4096)
def _target(operation: catalog.Operation, variant: Variant | None, called_as: str | None) -> Target:
    call: dict[str, Any] = {"group": operation.group, "operation": operation.name}
    if called_as is not None:
        call["called_as"] = called_as
    if variant is not None:
        call["variant"] = variant
    call |= {
        "method": operation.method,
        "path": operation.path,
        "scopes": list(operation.scopes),
        "risk": operation.risk.value,
        "personal_data": operation.personal_data,
        "sdk": catalog.sdk_version(),
    }
    return Target(
        f"klaviyo.{operation.group.lower()}.{operation.name}",
        call,
        writes=operation.writes,
        revision=_revision(),
        subject=subject_of(operation),
        identity=(operation.method, operation.path),
        place=PLACES.get((operation.method, operation.path)),
    )


def subject_of(operation: catalog.Operation) -> Subject:
    """An operation as the rules of a policy see it."""
    short = f"{operation.group.lower()}.{operation.name}"
    return Subject(
        (short, f"klaviyo.{short}", f"{operation.method} {operation.path}"),
        frozenset(operation.scopes),
        operation.risk.value,
    )


def target_of(function: Callable[..., Any], called_as: str | None) -> Target:
    """The target of one of the SDK's own functions.

    Args:
        function: A function or bound method of an API class, in any variant.
        called_as: The name it is called by, if known.

    Raises:
        LookupError: The function is no operation of the SDK.
    """
    operation, variant = catalog.operation_of(function)
    return _target(operation, variant, called_as)


def target_for(operation: catalog.Operation) -> Target:
    """The target of an operation that was told by a URL."""
    return _target(operation, None, None)


def target_of_caller(frame: FrameType | None, method: str, url_path: str) -> Target:
    """The target of a request that no audited operation made.

    Args:
        frame: The frame that called `ApiClient.call_api`: an operation of the SDK when the
            program uses ``openapi_client`` directly.
        method: HTTP method.
        url_path: Path of the URL; tells the operation when the frame does not.
    """
    if frame is not None and str(frame.f_globals.get("__name__")).startswith(_API_PACKAGE):
        known = _by_code.get(id(frame.f_code))
        if known is not None:
            return known[1]
        api = frame.f_locals.get("self")
        function = getattr(type(api), frame.f_code.co_name, None)
        if function is not None:
            try:
                target = target_of(function, None)
            except LookupError:
                pass
            else:
                # The code object is kept, so that its id stays its own.
                _by_code[id(frame.f_code)] = (frame.f_code, target)
                return target
    return target_for(catalog.by_url(method, url_path))


def caller(depth: int) -> FrameType | None:
    """The frame ``depth`` calls above the caller of this function."""
    try:
        return sys._getframe(depth + 1)  # noqa: SLF001  (the documented way to look at a caller)
    except ValueError:
        return None


def operation_frame(depth: int) -> FrameType | None:
    """Like `caller`, if that is the frame of one of the SDK's operations."""
    try:
        frame = sys._getframe(depth + 1)  # noqa: SLF001  (see `caller`)
    except ValueError:
        return None
    return frame if str(frame.f_globals.get("__name__")).startswith(_API_PACKAGE) else None
