"""Calling a sink on a thread of its own, with a deadline, so that a hung one holds nothing up."""

from __future__ import annotations

import inspect
import threading
from time import monotonic
from typing import TYPE_CHECKING, Final

from klaviyo_audit.context import suppress_audit
from klaviyo_audit.errors import ConfigurationError, KlaviyoAuditError
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.threads import can_run

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_OVERDUE: Final = 2
"""One that was given up, and one more that is waited for until one of them comes back."""

_local = threading.local()


def is_delivering() -> bool:
    """Whether this thread is inside a sink, where nothing may be waited for or recorded."""
    return getattr(_local, "delivering", False)


def reason_of(error: BaseException) -> str:
    """What went wrong, without texts that others have made: those may quote data."""
    if isinstance(error, KlaviyoAuditError):
        return str(error)
    told = error.strerror if isinstance(error, OSError) else None
    return told if told and isinstance(told, str) else type(error).__name__


def file_trouble(error: Exception) -> str:
    """What went wrong with the journal or a file beside it, with the file's name.

    Not for what a sink raises: the names of other files may be data.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


class Overdue(KlaviyoAuditError):  # noqa: N818  (a state, like its siblings in base.py)
    """The sink has not answered within the deadline. What became of the attempt is not known."""


class _Attempt:
    __slots__ = ("call", "done", "error", "subject")

    def __init__(self, subject: object, call: Callable[[], object]) -> None:
        self.subject = subject
        self.call = call
        self.done = False
        self.error: BaseException | None = None

    def make(self) -> None:
        _local.delivering = True
        try:
            with suppress_audit():
                _check(self.call())
        except BaseException as error:  # raised where the result is waited for
            self.error = error
        finally:
            _local.delivering = False


def _check(result: object) -> None:
    """Refuse what has not been run yet: nobody would run it, and it would count as delivered."""
    if inspect.iscoroutine(result):
        result.close()
    elif not (inspect.isawaitable(result) or inspect.isgenerator(result)):
        return
    raise ConfigurationError(
        "its deliver has to return when the entries were delivered, and is asynchronous or a "
        "generator, so that nothing of it was run: wait in it for what it starts, with "
        "asyncio.run, or run_coroutine_threadsafe(...).result() for a loop in another thread"
    )


class Attempts:
    """Makes calls, one at a time, on a daemon thread.

    An attempt that overruns its deadline is given up, and the next one gets a new thread; but
    there is never more than one that was given up. When a second one overruns too, both are
    waited for, however long it takes.

    Args:
        name: What the threads are called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._next: _Attempt | None = None
        self._worker: threading.Thread | None = None
        self._overdue: list[_Attempt] = []

    @property
    def overdue(self) -> int:
        """How many attempts have overrun their deadline and not come back."""
        with self._changed:
            return sum(not attempt.done for attempt in self._overdue)

    def make(self, subject: object, call: Callable[[], object], deadline: float) -> None:
        """Make a call, and wait for it.

        An earlier attempt about the same subject that was given up counts too if it has come back.

        Args:
            subject: What the call is about.
            call: The call.
            deadline: Seconds it may take.

        Raises:
            Overdue: It has not come back, or none could be made since too many have not.
            ConfigurationError: It is asynchronous.
            Exception: What it has raised.
        """
        until = monotonic() + deadline
        with self._changed:
            attempt = self._returned(subject)
            self._overdue = [other for other in self._overdue if not other.done]
            if attempt is None and len(self._overdue) < _MOST_OVERDUE:
                attempt = _Attempt(subject, call)
                inline = not self._start(attempt)
                if inline and self._overdue:
                    raise Overdue("the sink does not answer")
            else:
                inline = False
        if inline and attempt is not None:
            attempt.make()  # at the very end of the program there are no threads any more
            attempt.done = True
        with self._changed:
            while attempt is None or not attempt.done:
                left = until - monotonic()
                if left <= 0:
                    self._give_up(attempt)
                    raise Overdue(f"the sink has not answered within {deadline:g} s")
                self._changed.wait(left)
                attempt = self._returned(subject) or attempt
            if attempt in self._overdue:
                self._overdue.remove(attempt)
        if isinstance(attempt.error, Exception):
            raise attempt.error
        if attempt.error is not None:
            # Raised here, SystemExit and its like would end the shipper's thread, without a word.
            raise Retry(why=f"it raised {type(attempt.error).__name__}") from attempt.error

    def _returned(self, subject: object) -> _Attempt | None:
        """An attempt about the subject that has come back late."""
        return next((a for a in self._overdue if a.done and a.subject is subject), None)

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._worker = None
            self._changed.notify_all()

    def _give_up(self, attempt: _Attempt | None) -> None:
        if attempt is not None:
            self._overdue.append(attempt)
            self._worker = None  # it ends when the attempt comes back, if ever

    def _start(self, attempt: _Attempt) -> bool:
        """Hand the attempt to the worker; False where no thread can be started any more."""
        if not can_run():
            return False
        self._next = attempt
        if self._worker is None or not self._worker.is_alive():
            worker = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._worker = worker
            try:
                worker.start()
            except RuntimeError:  # the interpreter is shutting down
                self._worker = self._next = None
                return False
        self._changed.notify_all()
        return True

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                while self._worker is me and self._next is None:
                    self._changed.wait()
                if self._worker is not me:
                    return
                attempt, self._next = self._next, None
            assert attempt is not None
            attempt.make()
            with self._changed:
                attempt.done = True
                self._changed.notify_all()
