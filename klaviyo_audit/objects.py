"""A proxy of any object whose public methods are audited calls."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NoReturn

import wrapt

from klaviyo_audit.decorator import audited_function
from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from klaviyo_audit.recorder import Recorder

_PLAIN_VALUES = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    bool,
    list,
    tuple,
    dict,
    set,
    frozenset,
)


class AuditedObject(wrapt.AutoObjectProxy[Any]):
    """Every public method of the wrapped object is a call named ``<class>.<method>``."""

    def __init__(self, wrapped: Any, source: Callable[[], Recorder]) -> None:
        super().__init__(wrapped)
        self._self_source = source
        self._self_methods: dict[str, tuple[Any, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__wrapped__, name)
        if name.startswith("_") or not inspect.isroutine(value):
            return value
        function = getattr(value, "__func__", value)
        known = self._self_methods.get(name)
        if known is not None and known[0] is function:
            return known[1]
        audited = audited_function(
            value, self._self_source, action=f"{type(self.__wrapped__).__name__}.{name}"
        )
        self._self_methods[name] = (function, audited)
        return audited

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"an audited {type(self.__wrapped__).__name__} cannot be pickled: it is tied to this "
            "process's journal. Audit the object in the process that uses it."
        )


def audit_object(value: Any, source: Callable[[], Recorder]) -> Any:
    """An audited proxy of an object that is not Klaviyo's.

    Raises:
        ConfigurationError: The value has no methods that could be calls of an audited program.
    """
    kind = type(value).__name__
    if isinstance(value, type):
        raise ConfigurationError(
            f"audit() was given the class {value.__name__}; give it an instance, "
            f"as in audit({value.__name__}(...))"
        )
    if inspect.ismodule(value):
        raise ConfigurationError(
            f"audit() was given the module {value.__name__}; decorate its functions with @audited"
        )
    if inspect.isroutine(value):
        raise ConfigurationError(
            f"audit() was given the function {getattr(value, '__name__', kind)}; "
            "use audited() for functions"
        )
    if value is None or isinstance(value, _PLAIN_VALUES):
        raise ConfigurationError(
            f"audit() was given a value of type {kind}; give it a KlaviyoAPI client, one of its "
            "API groups, or an object of your own that has methods"
        )
    return AuditedObject(value, source)
