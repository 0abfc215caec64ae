"""A thread pool whose tasks act for whoever has submitted them."""

from __future__ import annotations

import contextvars
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class ContextThreadPoolExecutor(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` that runs each task in a copy of its submitter's context.

    The standard one runs all tasks in the context of its threads, so that `acting_as` around
    ``submit`` or ``map`` would say nothing about what the tasks do. Everything else in the context
    comes along too: the audited function that is the parent, and OpenTelemetry's current span.

    Example:
        >>> with ContextThreadPoolExecutor(4) as pool, acting_as("dana"):  # doctest: +SKIP
        ...     list(pool.map(klaviyo.Profiles.get_profile, ids))
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call, as the standard one does (PEP 3148)."""
        return super().submit(partial(contextvars.copy_context().run, fn, *args, **kwargs))
