"""Who is acting, and which audited call we are in, carried by context variables."""

from __future__ import annotations

import contextlib
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

import wrapt

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator
    from contextlib import AbstractContextManager

P = ParamSpec("P")
R = TypeVar("R")


class ActorContext:
    """The acting person as `acting_as` names them; a linked list of nested scopes."""

    __slots__ = (
        "break_glass",
        "ip",
        "metadata",
        "named",
        "on_behalf_of",
        "outer",
        "reason",
        "rendered",
        "user_id",
    )

    def __init__(
        self,
        user_id: str,
        reason: str | None,
        on_behalf_of: str | None,
        ip: str | None,
        metadata: dict[str, Any],
        outer: ActorContext | None,
        *,
        break_glass: str | None = None,
        named: bool = True,
    ) -> None:
        self.user_id = user_id
        # False: `user_id` only stands for whoever sent a request, whom nobody knows.
        self.named = named
        self.outer = outer
        self.reason: str | None = reason
        self.on_behalf_of: str | None = on_behalf_of
        self.ip: str | None = ip
        self.metadata: dict[str, Any] = metadata
        self.break_glass: str | None = break_glass
        if outer is not None:
            self.reason = outer.reason if reason is None else reason
            self.on_behalf_of = outer.on_behalf_of if on_behalf_of is None else on_behalf_of
            self.ip = outer.ip if ip is None else ip
            self.metadata = {**outer.metadata, **metadata}
            self.break_glass = outer.break_glass if break_glass is None else break_glass
        # What a recorder made of this actor, kept so that it is cleaned once and not per call.
        self.rendered: tuple[object, Any] | None = None


ACTOR: ContextVar[ActorContext | None] = ContextVar("klaviyo_audit_actor", default=None)
"""The innermost `acting_as`."""

CURRENT: ContextVar[Any] = ContextVar("klaviyo_audit_call", default=None)
"""The innermost audited call (`recorder.CallRecord`); parent of those made in it."""

SUPPRESSED: ContextVar[int] = ContextVar("klaviyo_audit_suppressed", default=0)
"""How many `suppress_audit` scopes we are in."""


class acting_as:  # noqa: N801  (used like a function: with acting_as("dana"):)
    """Name who acts, for every audited call in the scope.

    A context manager and a decorator (of plain and ``async`` functions, generators and async
    generators). Follows the context into tasks and ``asyncio.to_thread``. Scopes nest; what an
    inner one does not give is inherited.

    Args:
        user_id: Who acts: a user name or id. It goes into the trail as given.
        reason: Why, in a few words. Secrets, e-mail addresses and phone numbers in it are masked.
        on_behalf_of: For whom, when somebody acts in another's name.
        ip: Address the actor came from.
        break_glass: Why calls in the scope may go out although the guard denies them. Each that
            does is a warning in the log and an entry of its own. It does not travel to the workers
            of a task queue.
        **metadata: Further facts, recorded in the entries' ``metadata``.

    Raises:
        TypeError: ``user_id`` is not a non-empty string, or ``break_glass`` says nothing.

    Example:
        >>> with acting_as("dana", reason="GDPR request 4711"):
        ...     klaviyo.Data_Privacy.request_profile_deletion(body)  # doctest: +SKIP
    """

    __slots__ = ("_break_glass", "_ip", "_metadata", "_on_behalf_of", "_reason", "_user_id")

    def __init__(
        self,
        user_id: str,
        *,
        reason: str | None = None,
        on_behalf_of: str | None = None,
        ip: str | None = None,
        break_glass: str | None = None,
        **metadata: Any,
    ) -> None:
        if break_glass is not None and not (isinstance(break_glass, str) and break_glass.strip()):
            raise TypeError("break_glass says why, in a few words; it was given none")
        if not isinstance(user_id, str) or not user_id:
            raise TypeError(
                "acting_as() needs a user id, a non-empty string; "
                f"it was given {'an empty string' if user_id == '' else type(user_id).__name__}"
            )
        self._user_id = user_id
        self._reason = reason
        self._on_behalf_of = on_behalf_of
        self._ip = ip
        self._break_glass = break_glass
        self._metadata = metadata

    def __enter__(self) -> Self:
        ACTOR.set(
            ActorContext(
                self._user_id,
                self._reason,
                self._on_behalf_of,
                self._ip,
                self._metadata,
                ACTOR.get(),
                break_glass=self._break_glass,
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        # The scopes are a linked list, so leaving one needs no token: one object may be entered
        # from many threads and tasks.
        current = ACTOR.get()
        ACTOR.set(current.outer if current is not None else None)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function: it runs in the scope."""
        return cast("Callable[P, R]", scoped(function, lambda: self))


@contextlib.contextmanager
def suppress_audit() -> Iterator[None]:
    """Calls made in this scope are not audited. For sinks, and for nothing else."""
    SUPPRESSED.set(SUPPRESSED.get() + 1)
    try:
        yield
    finally:
        SUPPRESSED.set(SUPPRESSED.get() - 1)


def scoped(
    function: Callable[..., Any], scope: Callable[[], AbstractContextManager[Any]]
) -> Callable[..., Any]:
    """Run every step of a function in a scope, whatever kind of function it is.

    A generator leaves the scope at each ``yield`` and enters it again when it goes on, so that
    the consumer's own context is never changed.
    """
    if inspect.isasyncgenfunction(function):

        @wrapt.decorator
        def wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
            return drive_async_generator(wrapped(*args, **kwargs), scope)

    elif inspect.isgeneratorfunction(function):

        @wrapt.decorator
        def wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
            return drive_generator(wrapped(*args, **kwargs), scope)

    elif inspect.iscoroutinefunction(function):

        @wrapt.decorator
        async def wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
            with scope():
                return await wrapped(*args, **kwargs)

    else:

        @wrapt.decorator
        def wrapper(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
            with scope():
                return wrapped(*args, **kwargs)

    return cast("Callable[..., Any]", wrapper(function))


def drive_generator(
    generator: Generator[Any, Any, Any],
    scope: Callable[[], AbstractContextManager[Any]],
    whole: AbstractContextManager[Any] | None = None,
) -> Generator[Any, Any, Any]:
    """Delegate to a generator, each of its steps in ``scope()``, all of them in ``whole``."""
    resume: Callable[[Any], Any] = generator.send
    payload: Any = None
    with whole or contextlib.nullcontext():
        while True:
            try:
                with scope():
                    item = resume(payload)
            except StopIteration as stop:
                return stop.value
            try:
                payload = yield item
                resume = generator.send
            except GeneratorExit:
                with scope():
                    generator.close()
                raise
            except BaseException as error:
                resume, payload = generator.throw, error


async def drive_async_generator(
    generator: AsyncGenerator[Any, Any],
    scope: Callable[[], AbstractContextManager[Any]],
    whole: AbstractContextManager[Any] | None = None,
) -> AsyncGenerator[Any, Any]:
    """Delegate to an async generator, each of its steps in ``scope()``, all in ``whole``."""
    resume: Callable[[Any], Any] = generator.asend
    payload: Any = None
    with whole or contextlib.nullcontext():
        while True:
            try:
                with scope():
                    item = await resume(payload)
            except StopAsyncIteration:
                return
            try:
                payload = yield item
                resume = generator.asend
            except GeneratorExit:
                with scope():
                    await generator.aclose()
                raise
            except BaseException as error:
                resume, payload = generator.athrow, error
