"""Auditing every client of the process, through the three places each of their calls passes."""

from __future__ import annotations

import contextlib
import sys
from threading import RLock
from typing import TYPE_CHECKING, Any

import wrapt

from klaviyo_audit.context import CURRENT, SUPPRESSED
from klaviyo_audit.klaviyo import catalog, targets
from klaviyo_audit.klaviyo.operation import observe_call_api, observe_request, run_audited

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from klaviyo_audit.recorder import Recorder

# (module, class, attribute). The first is passed once an SDK attempt by everything, direct use of
# openapi_client included; the second holds the attempts of one call together. The third is below
# the first, and sees what went around it: a ``call_api`` that was taken, wrapped in an instance or
# overridden before we came, and requests that are made with the ``rest_client`` itself.
_CALL_API = ("openapi_client.api_client", "ApiClient", "call_api")
_WITH_RETRY = ("klaviyo_api.custom_retry", "RetryWithExponentialBackoff", "with_retry")
_REQUEST = ("openapi_client.rest", "RESTClientObject", "request")
_PLACES = (_CALL_API, _WITH_RETRY, _REQUEST)


class _Layer:
    """Our wrapper around one attribute, which can be taken off again exactly."""

    __slots__ = ("attribute", "original", "owner", "wrapper")

    def __init__(self, owner: type, attribute: str, wrapper: Callable[..., Any]) -> None:
        self.owner = owner
        self.attribute = attribute
        self.original = owner.__dict__[attribute]
        self.wrapper = wrapt.FunctionWrapper(self.original, wrapper)
        setattr(owner, attribute, self.wrapper)

    def remove(self) -> None:
        """Take our layer off, also from under one that was put on later."""
        outer = self.owner.__dict__.get(self.attribute)
        if outer is self.wrapper:
            setattr(self.owner, self.attribute, self.original)
            return
        # Somebody wrapped after us. In a chain of ``__wrapped__`` our place can be closed; in an
        # opaque closure our wrapper has to stay, and passes everything on from now on.
        while outer is not None:
            inner = getattr(outer, "__wrapped__", None)
            if inner is self.wrapper:
                with contextlib.suppress(AttributeError, TypeError):
                    outer.__wrapped__ = self.original
                return
            outer = inner


class _Instrumentation:
    """The process's one instrumentation, on or off."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._source: Callable[[], Recorder] | None = None
        self._layers: dict[tuple[str, str, str], _Layer] = {}
        self._hooked = False

    @property
    def is_on(self) -> bool:
        return self._source is not None

    def on(self, source: Callable[[], Recorder]) -> None:
        with self._lock:
            self._source = source
            if not self._hooked:
                # wrapt cannot take an import hook back, so there is one for ever, which does
                # nothing while the instrumentation is off.
                self._hooked = True
                for place in _PLACES:
                    wrapt.register_post_import_hook(self._imported, place[0])
            for place in _PLACES:
                module = sys.modules.get(place[0])
                if module is not None:
                    self._imported(module)

    def off(self) -> None:
        with self._lock:
            self._source = None
            for layer in self._layers.values():
                layer.remove()
            self._layers.clear()

    def _imported(self, module: ModuleType) -> None:
        with self._lock:
            if self._source is None:
                return
            for place, wrapper in (
                (_CALL_API, self._around_call_api),
                (_WITH_RETRY, self._around_with_retry),
                (_REQUEST, self._around_request),
            ):
                if module.__name__ != place[0] or place in self._layers:
                    continue
                owner = getattr(module, place[1], None)
                if owner is None or place[2] not in vars(owner) or not catalog.is_klaviyo_sdk():
                    continue
                self._layers[place] = _Layer(owner, place[2], wrapper)

    def _around_call_api(
        self,
        wrapped: Callable[..., Any],
        _instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        source = self._source
        if source is None:
            return wrapped(*args, **kwargs)
        return observe_call_api(source(), wrapped, args, kwargs, depth=2)

    def _around_request(
        self,
        wrapped: Callable[..., Any],
        _instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        source = self._source
        if source is None:
            return wrapped(*args, **kwargs)
        return observe_request(source(), wrapped, args, kwargs, depth=3)

    def _around_with_retry(
        self,
        wrapped: Callable[..., Any],
        _instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        source = self._source
        call = CURRENT.get()
        if (
            source is None
            or SUPPRESSED.get()
            or (call is not None and call.is_sdk and call.transport_url is None)
        ):
            return wrapped(*args, **kwargs)
        function = args[0] if args else kwargs.get("func_to_call")
        try:
            target = targets.target_of(function, None)  # type: ignore[arg-type]
        except LookupError:
            # Not an operation: whatever it sends is seen by ``call_api``.
            return wrapped(*args, **kwargs)
        return run_audited(source(), target, wrapped, args, kwargs)


_INSTRUMENTATION = _Instrumentation()


def turn_on(source: Callable[[], Recorder]) -> None:
    """Audit every client of the process; entries go to what ``source`` gives at each call."""
    _INSTRUMENTATION.on(source)


def turn_off() -> None:
    """Undo `turn_on` exactly; without it this does nothing."""
    _INSTRUMENTATION.off()


def is_on() -> bool:
    """Whether the process is instrumented."""
    return _INSTRUMENTATION.is_on
