"""Auditing functions of the program's own: ``@audited``."""

from __future__ import annotations

import contextlib
import inspect
import string
from typing import TYPE_CHECKING, Any, Self, cast

import wrapt

from klaviyo_audit.calls import CallRecord, Target
from klaviyo_audit.context import CURRENT, SUPPRESSED, drive_async_generator, drive_generator
from klaviyo_audit.entry import Result
from klaviyo_audit.errors import AccessDenied, ConfigurationError
from klaviyo_audit.privacy.gate import Gate
from klaviyo_audit.recorder import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from klaviyo_audit.otel.telemetry import LiveCall
    from klaviyo_audit.recorder import Recorder

_MAX_RESOURCE = 300
_DECLARED = Gate()
"""What the program's own source says, before there is a recorder."""


class _Plan:
    """What is known about an audited function before it is called."""

    __slots__ = ("_arguments", "_capture", "_metadata", "_template", "source", "target")

    def __init__(
        self,
        function: Callable[..., Any],
        source: Callable[[], Recorder],
        *,
        action: str | None,
        resource: str | None,
        capture: Sequence[str],
        metadata: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None,
    ) -> None:
        qualified = getattr(function, "__qualname__", type(function).__name__)
        module = getattr(function, "__module__", None) or "?"
        name = qualified.replace("<locals>.", "")
        group, _, operation = name.rpartition(".")
        self.source = source
        self.target = Target(
            _DECLARED.text(action or f"{module}.{name}", 200),
            {"group": group or module, "operation": operation},
            writes=False,
        )
        self._arguments = _Arguments(function)
        self._template = _parse_template(resource, self._arguments) if resource else None
        self._capture = tuple(capture)
        for argument in self._capture:
            self._arguments.require(argument, f"capture={list(capture)!r}")
        self._metadata = metadata

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallRecord:
        call = CallRecord(self.target, CURRENT.get(), is_sdk=False)
        # Nothing here may keep the function from running, whatever its arguments do.
        if self._template is not None:
            try:
                filled = "".join(self._fill(args, kwargs))
                call.resource = self.source().gate.text(filled, _MAX_RESOURCE)
            except Exception as error:
                call.resource = f"[not filled: {type(error).__name__}]"
        if self._capture:
            with contextlib.suppress(Exception):
                call.request = self.source().gate.value(
                    {name: self._arguments.value(name, args, kwargs) for name in self._capture}
                )
        if self._metadata is not None:
            with contextlib.suppress(Exception):
                call.metadata = (
                    self._metadata(*args, **kwargs) if callable(self._metadata) else self._metadata
                )
        return call

    def _fill(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[str]:
        for literal, name, path in cast("list[tuple[str, str, list[str]]]", self._template):
            yield literal
            if name:
                value = self._arguments.value(name, args, kwargs)
                for attribute in path:
                    value = getattr(value, attribute)
                yield str(value)[:_MAX_RESOURCE]


class _Arguments:
    """Finds an argument by name, without binding the whole signature at each call."""

    __slots__ = ("_defaults", "_function", "_names", "_positions", "_takes_any")

    def __init__(self, function: Callable[..., Any]) -> None:
        try:
            parameters = dict(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            parameters = {}  # some callables written in C do not tell
        self._function = getattr(function, "__qualname__", repr(type(function)))
        self._names = tuple(parameters)
        positional = [
            name
            for name, one in parameters.items()
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        self._positions = {name: index for index, name in enumerate(positional)}
        self._defaults = {
            name: one.default for name, one in parameters.items() if one.default is not one.empty
        }
        self._takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())

    def require(self, name: str, where: str) -> None:
        if name not in self._names and not self._takes_any:
            raise ConfigurationError(
                f"@audited({where}) names {name!r}, which {self._function}() does not take; "
                f"its arguments are: {', '.join(self._names) or 'none'}"
            )

    def value(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in kwargs:
            return kwargs[name]
        position = self._positions.get(name)
        if position is not None and position < len(args):
            return args[position]
        return self._defaults[name]


def _parse_template(template: str, arguments: _Arguments) -> list[tuple[str, str, list[str]]]:
    where = f"resource={template!r}"
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(f"@audited({where}) is not a template: {error}") from None
    parts: list[tuple[str, str, list[str]]] = []
    for literal, field, spec, conversion in parsed:
        if field is None:
            parts.append((literal, "", []))
            continue
        name, *path = field.split(".")
        if spec or conversion or not all(part.isidentifier() for part in (name, *path)):
            raise ConfigurationError(
                f"@audited({where}): {{{field}}} must be an argument's name, or attributes of one "
                "as in {order.id}"
            )
        arguments.require(name, where)
        parts.append((literal, name, path))
    return parts


def audited_function(
    function: Callable[..., Any],
    source: Callable[[], Recorder],
    *,
    action: str | None = None,
    resource: str | None = None,
    capture: Sequence[str] = (),
    metadata: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
) -> Callable[..., Any]:
    """Wrap a function so that every call of it leaves an outcome entry.

    Args:
        function: A function of any kind, a ``classmethod`` or a ``staticmethod``.
        source: Gives the recorder, at each call.
        action: The entries' ``action``; the function's module and qualified name if not given.
        resource: Template for the entries' ``resource``, filled from the arguments.
        capture: Names of the arguments whose values the entries keep (cleaned, bounded).
        metadata: Facts for the entries' ``metadata``, or a function that makes them from the
            call's arguments.

    Raises:
        ConfigurationError: ``resource`` or ``capture`` name an argument that is none.
    """
    inner = function.__func__ if isinstance(function, classmethod | staticmethod) else function
    plan = _Plan(
        inner, source, action=action, resource=resource, capture=capture, metadata=metadata
    )
    return wrapt.FunctionWrapper(function, _wrapper_for(inner, plan))


class _Running:
    """One call of an audited function, from the first step to the outcome."""

    __slots__ = ("_args", "_call", "_kwargs", "_live", "_plan")

    def __init__(self, plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._plan = plan
        self._args = args
        self._kwargs = kwargs

    def __enter__(self) -> Self:
        self._call = self._plan.begin(self._args, self._kwargs)
        self._live = self._plan.source().begin(self._call)
        return self

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        live = self._live
        attached = None if live is None else live.attach()
        # A consumer that stops early (GeneratorExit) is no failure of the function.
        if error is None or isinstance(error, GeneratorExit):
            error = None
            self._plan.source().outcome(self._call, Result.SUCCESS)
        else:
            result = Result.DENIED if isinstance(error, AccessDenied) else Result.FAILURE
            recorder = self._plan.source()
            recorder.outcome(self._call, result, describe_error(error, "function", recorder.gate))
        if live is not None:
            live.finish(attached, self._call, error)

    def step(self) -> _Step:
        """The scope in which calls become children of this one."""
        return _Step(self._call, self._live)


class _Step:
    __slots__ = ("_attached", "_call", "_live", "_token")

    def __init__(self, call: CallRecord, live: LiveCall | None) -> None:
        self._call = call
        self._live = live

    def __enter__(self) -> None:
        self._token = CURRENT.set(self._call)
        self._attached = None if self._live is None else self._live.attach()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.detach(self._attached)
        # A coroutine that its owner goes on with in another context cannot be reset there.
        with contextlib.suppress(ValueError):
            CURRENT.reset(self._token)


async def _awaited(call: _Running, wrapped: Any, args: Any, kwargs: Any) -> Any:
    with call, call.step():
        return await wrapped(*args, **kwargs)


def _wrapper_for(function: Callable[..., Any], plan: _Plan) -> Callable[..., Any]:
    # wrapt takes ``self`` and ``cls`` out of the arguments; the signature has them in.
    is_function = inspect.isfunction(function)

    def running(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Running:
        named = (instance, *args) if is_function and instance is not None else args
        return _Running(plan, named, kwargs)

    if inspect.isasyncgenfunction(function):

        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            if SUPPRESSED.get():
                return wrapped(*args, **kwargs)
            call = running(instance, args, kwargs)
            return drive_async_generator(wrapped(*args, **kwargs), call.step, call)

    elif inspect.isgeneratorfunction(function):

        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            if SUPPRESSED.get():
                return wrapped(*args, **kwargs)
            call = running(instance, args, kwargs)
            return drive_generator(wrapped(*args, **kwargs), call.step, call)

    elif inspect.iscoroutinefunction(function):

        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            if SUPPRESSED.get():
                return wrapped(*args, **kwargs)
            return _awaited(running(instance, args, kwargs), wrapped, args, kwargs)

    else:

        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            if SUPPRESSED.get():
                return wrapped(*args, **kwargs)
            with running(instance, args, kwargs) as call, call.step():
                return wrapped(*args, **kwargs)

    return wrapper


def decorate(
    function: Callable[..., Any] | None, source: Callable[[], Recorder], options: dict[str, Any]
) -> Any:
    """Audit a function; without one, give what audits it: for use with and without parentheses."""
    if function is None:
        return lambda given: audited_function(given, source, **options)
    return audited_function(function, source, **options)
