"""Whether threads of this package can run in the process it is in, which uWSGI makes a question.

uWSGI forks past Python's hooks, and lets go of the GIL only if it is told to (``enable-threads``).
A worker that is forked while a thread of the master has the GIL never gets it; one that is forked
off a process with threads hangs at its first wait where threads are not enabled. So no thread is
started before the fork, and none at all where they are not enabled.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from uuid_utils import reseed_rng

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("klaviyo_audit")

_WITH_THREADS: Final = frozenset({"enable-threads", "threads"})

_later: Final[list[weakref.WeakMethod[Callable[[], object]]]] = []
_workers: Final[set[int]] = set()
"""Process ids that uWSGI's hook was called in."""


def prepare() -> None:
    """Have each process that uWSGI is going to fork off this one make ids of its own.

    Else two of them make the same ids: uuid_utils starts anew after a fork by a hook of Python's,
    which uWSGI passes by.
    """
    server: Any = sys.modules.get("uwsgi")
    if isinstance(getattr(server, "opt", None), dict) and not server.worker_id():
        _hook(server)


def can_run(again: Callable[[], object] | None = None) -> bool:
    """Whether a thread may be started here and now.

    Args:
        again: A method that is called once more in each process that uWSGI makes of this one, if
            the answer is no because uWSGI has not forked yet.
    """
    server: Any = sys.modules.get("uwsgi")
    options = getattr(server, "opt", None)
    if not isinstance(options, dict):
        return True
    if not _WITH_THREADS & options.keys():
        _tell()
        return False
    if server.worker_id() or os.getpid() in _workers:
        return True
    if again is not None:
        _hook(server)
        _later.append(weakref.WeakMethod(again))
    return False


@cache
def _hook(server: Any) -> None:
    """Be called in each process that uWSGI forks off, without taking the place from others."""
    try:
        # If the program imports it later, it overwrites a hook of ours.
        chain = import_module("uwsgidecorators").postfork_chain
    except ImportError:
        before = getattr(server, "post_fork_hook", None)

        def both() -> None:
            if before is not None:
                before()
            _begin()

        server.post_fork_hook = both
    else:
        chain.append(_begin)


def _begin() -> None:
    reseed_rng()
    _workers.add(os.getpid())
    for reference in _later:
        if (start := reference()) is not None:
            start()


@cache
def _tell() -> None:
    _log.warning(
        "uWSGI runs this program without threads, so the journal is not sealed and nothing is "
        "delivered to sinks but by `flush` and at the end. Set enable-threads = true, or run "
        "`klaviyo-audit seal --follow` and `klaviyo-audit ship --follow` beside it"
    )
