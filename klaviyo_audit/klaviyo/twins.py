"""Audited twins of the SDK's HTTP client: of an `ApiClient`, and of the ``rest_client`` in it."""

from __future__ import annotations

import copy
import functools
import types
from typing import TYPE_CHECKING, Any, NoReturn, cast

import wrapt

from klaviyo_audit.klaviyo.operation import observe_call_api, observe_request

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from klaviyo_audit.recorder import Recorder


def audit_api_client(api_client: Any, recorder: Recorder) -> Any:
    """An audited twin of an `ApiClient`.

    The twin is of a subclass, and shares the original's attributes (the very dictionary), so
    every change of the one is seen in the other. A wrapt proxy did the same at 20 us a call: the
    SDK looks up six attributes of its `ApiClient` in each.
    """
    return _twin(_api_client_class(cast("Hashable", type(api_client))), api_client, recorder)


def is_audited(api_client: Any) -> bool:
    """Whether an `ApiClient` is an audited twin."""
    return hasattr(api_client, "_audit_original")


def original(twin: Any) -> Any:
    """What a value is the audited twin of, or itself."""
    return getattr(twin, "_audit_original", twin)


def refuse_pickle(wrapped: Any) -> NoReturn:
    """Say why an audited client cannot be pickled."""
    raise TypeError(
        f"an audited {type(wrapped).__name__} cannot be pickled: it is tied to this process's "
        "journal (and holds an API key). Make the client in the process that uses it, and audit "
        "it there."
    )


def _twin(twin_class: type, one: Any, recorder: Recorder) -> Any:
    twin: Any = object.__new__(twin_class)
    twin.__dict__ = one.__dict__
    twin._audit_original = one  # noqa: SLF001  (our own slots)
    twin._audit_recorder = recorder  # noqa: SLF001
    return twin


def _twin_class(base: Any, members: dict[str, Any]) -> Any:
    """A class for twins of objects of one class; it shows itself as that class."""
    members = {
        "__slots__": ("_audit_original", "_audit_recorder"),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__copy__": lambda self: _twin(
            type(self), copy.copy(self._audit_original), self._audit_recorder
        ),
        "__deepcopy__": lambda self, memo: _twin(
            type(self), copy.deepcopy(self._audit_original, memo), self._audit_recorder
        ),
        "__reduce_ex__": lambda self, _protocol: refuse_pickle(self._audit_original),
        **members,
    }
    return type(base.__name__, (base,), members)


@functools.lru_cache(maxsize=64)
def _api_client_class(base: Any) -> Any:
    members = {
        # A property, since it wins over an attribute of the instance: also a ``call_api`` that
        # somebody put on the client itself is watched. It gives `_send` as a bound method, and
        # is made of callables written in C, so that it is no Python call.
        "call_api": property(functools.partial(types.MethodType, _send)),
        # The original's own ``call_api``, which every call runs, has the ``rest_client`` itself.
        "rest_client": property(_rest_client, _put_rest_client),
    }
    return _twin_class(base, members)


def _send(twin: Any, *args: Any, **kwargs: Any) -> Any:
    return observe_call_api(
        twin._audit_recorder,  # noqa: SLF001
        twin._audit_original.call_api,  # noqa: SLF001
        args,
        kwargs,
        depth=2,
    )


def _rest_client(twin: Any) -> Any:
    rest = twin._audit_original.rest_client  # noqa: SLF001
    rest_class = _rest_client_class(cast("Hashable", type(rest)))
    return _twin(rest_class, rest, twin._audit_recorder)  # noqa: SLF001


def _put_rest_client(twin: Any, value: Any) -> None:
    twin._audit_original.rest_client = original(value)  # noqa: SLF001


@functools.lru_cache(maxsize=64)
def _rest_client_class(base: Any) -> Any:
    return _twin_class(base, {"request": property(_request, _put_request)})


def _request(twin: Any) -> Any:
    """The original's ``request``, audited: as it is now, since it may be put into another one."""
    recorder = twin._audit_recorder  # noqa: SLF001

    def around(
        wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return observe_request(recorder, wrapped, args, kwargs, depth=3)

    return wrapt.FunctionWrapper(twin._audit_original.request, around)  # noqa: SLF001


def _put_request(twin: Any, value: Any) -> None:
    twin._audit_original.request = value  # noqa: SLF001
