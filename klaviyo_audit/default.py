"""The process's default auditor, and the functions that use it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from klaviyo_audit.auditor import Auditor
from klaviyo_audit.decorator import decorate
from klaviyo_audit.klaviyo import instrument as instrumentation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from klaviyo_audit.recorder import Recorder

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_default: Auditor | None = None
_default_lock = threading.Lock()


def default_auditor() -> Auditor:
    """The process's default auditor, made from the settings at first use."""
    global _default  # noqa: PLW0603  (the one piece of module state, see docs/decisions)
    auditor = _default
    if auditor is None:
        with _default_lock:
            if _default is None:
                _default = Auditor.from_env()
            auditor = _default
    return auditor


def default_if_made() -> Auditor | None:
    """The process's default auditor; None as long as nothing has needed it."""
    return _default


def configure(**settings: Any) -> Auditor:
    """Replace the process's default auditor.

    Args:
        **settings: As for `Auditor`.

    Returns:
        The new default. The one before is closed; what it audits goes on being recorded.
    """
    global _default
    auditor = Auditor(**settings)
    with _default_lock:
        before, _default = _default, auditor
    if before is not None:
        before.close()
    return auditor


def reset_default() -> None:
    """Close the process's default auditor; the next use makes a new one."""
    global _default
    with _default_lock:
        before, _default = _default, None
    if before is not None:
        before.close()


def _default_recorder() -> Recorder:
    return default_auditor().recorder


def audit(client: T, *, auditor: Auditor | None = None) -> T:
    """Audit every call of a client from now on.

    Args:
        client: A ``KlaviyoAPI``; or one API group (``client.Profiles``, ``ProfilesApi(...)``), an
            ``ApiClient``, or any other object: then every public method is a call named
            ``<class>.<method>``.
        auditor: Which auditor; the process's default if not given.

    Returns:
        A transparent proxy: what it does, returns and raises is the client's own. The client
        itself is not changed, and calls through it directly are not audited.

    Raises:
        ConfigurationError: The value has nothing that could be audited.
    """
    return (auditor or default_auditor()).audit(client)


@overload
def audited(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def audited(
    *,
    action: str | None = None,
    resource: str | None = None,
    capture: Sequence[str] = (),
    metadata: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def audited(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Audit a function of the program's own; SDK calls made in it become its children.

    For plain and ``async`` functions, generators and async generators, methods, and class and
    static methods in either order of decorators.

    Args:
        function: The function, when used without parentheses.
        **options: ``action`` (its name in the trail), ``resource`` (a template such as
            ``"profile:{profile_id}"``, filled from the arguments), ``capture`` (names of arguments
            whose values are kept, cleaned), ``metadata`` (facts, or a function of the call's
            arguments that gives them).

    Raises:
        ConfigurationError: ``resource`` or ``capture`` name an argument that is none.
    """
    return decorate(function, _default_recorder, options)


def instrument(auditor: Auditor | None = None) -> None:
    """Audit every ``klaviyo-api`` client of the process, code of others included.

    Clients made before count too. Calls through a proxy of `audit` are not recorded twice.

    Args:
        auditor: Which auditor; the process's default if not given, also if that is replaced.
    """
    if auditor is None:
        default_auditor()  # a bad setting is told here, not in somebody's call
        instrumentation.turn_on(_default_recorder)
    else:
        instrumentation.turn_on(lambda: auditor.recorder)


def uninstrument() -> None:
    """Undo `instrument`, exactly."""
    instrumentation.turn_off()
