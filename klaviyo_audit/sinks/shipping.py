"""The sinks of one auditor: made from the settings, and shipped to by threads of the program."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from klaviyo_audit import clock
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.attempts import is_delivering
from klaviyo_audit.sinks.condition import Pace
from klaviyo_audit.sinks.registry import EPHEMERAL, checked, find_sink, make_sink
from klaviyo_audit.sinks.shipper import Shipper
from klaviyo_audit.sinks.thread import ShipperThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from klaviyo_audit.settings import Settings
    from klaviyo_audit.sinks.base import Sink
    from klaviyo_audit.sinks.books import Books

_JOIN_SECONDS: Final = 0.05


def pace_of(settings: Settings) -> Pace:
    """How patiently sinks are served, by the settings."""
    return Pace(
        batch_entries=settings.ship_batch_entries,
        batch_bytes=int(settings.ship_batch_bytes),
        batch_age=settings.ship_batch_age,
        deadline=settings.ship_deadline,
        retry_most=settings.ship_retry_most,
    )


class Sinks:
    """The sinks an auditor was given, before there is anything to ship.

    Args:
        given: `Sink` objects.
        settings: They name others.

    Raises:
        ConfigurationError: One is unknown, cannot be made or is no sink, or two have one name.
    """

    def __init__(self, given: Sequence[Sink], settings: Settings) -> None:
        self._settings = settings
        found = [checked(sink, f"the sink {type(sink).__name__}") for sink in given]
        makers: list[Callable[[], Sink]] = [partial(_same, sink) for sink in found]
        elsewhere = []
        for name in settings.sinks:
            if settings.ship == "off":
                find_sink(name)  # a misspelt one is told here too
                elsewhere.append(name)
            else:
                # A child that is forked off gets one of its own.
                maker = _Once(partial(make_sink, name, settings))
                found.append(maker.first)
                makers.append(maker)
        self._makers = makers
        self.names = tuple(sink.name for sink in found)
        kept = [sink.name for sink in found if not getattr(sink, "ephemeral", False)]
        self.kept = (*kept, *(name for name in elsewhere if name not in EPHEMERAL))
        """Those that have a bookmark, here or in another process."""
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise ConfigurationError(
                f"two sinks are called {min(twice)!r}: each needs a name of its own, since its "
                "bookmark is kept by it"
            )

    def made(self) -> list[Sink]:
        """The sinks themselves, for delivering to them in another way."""
        return [make() for make in self._makers]

    def ship(
        self,
        directory: Path,
        *,
        books: Callable[[str], Books] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Shipping:
        """Begin to deliver.

        Args:
            directory: The journal's folder.
            books: Gives what stands in for the journal, by a sink's name.
            tell: As for `Shipper`.
        """
        shipping = Shipping(
            [
                partial(self._shipper, directory, name, maker, books, tell)
                for name, maker in zip(self.names, self._makers, strict=True)
            ]
        )
        shipping.start()
        return shipping

    def _shipper(
        self,
        directory: Path,
        name: str,
        maker: Callable[[], Sink],
        books: Callable[[str], Books] | None,
        tell: Callable[[str], None] | None,
    ) -> Shipper:
        return Shipper(
            directory,
            maker(),
            pace=pace_of(self._settings),
            passes=self._settings.sink_filters.get(name),
            books=books(name) if books else None,
            tell=tell,
        )


def _same(sink: Sink) -> Sink:
    return sink


class _Once:
    """Makes sinks; the first one beforehand, so that what is wrong is known at once."""

    def __init__(self, make: Callable[[], Sink]) -> None:
        self._make = make
        self.first = make()
        self._used = False

    def __call__(self) -> Sink:
        if self._used:
            return self._make()
        self._used = True
        return self.first


class Shipping:
    """The shippers of one process.

    Args:
        makers: Make the shippers, one a sink.
    """

    def __init__(self, makers: Sequence[Callable[[], Shipper]]) -> None:
        self.threads = tuple(ShipperThread(make) for make in makers)

    def start(self) -> None:
        """Start all threads."""
        for thread in self.threads:
            thread.start()

    def flush(self, timeout: float) -> bool:
        """Have everything delivered that was recorded before now.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it was.
        """
        if is_delivering():
            return False  # a sink would wait for itself
        until = monotonic() + timeout
        since = clock.now()
        running = [thread for thread in self.threads if thread.start()]
        requests = [(thread, thread.request()) for thread in running]
        done = [thread.wait_for(request, until, since) for thread, request in requests]
        # At the very end of the program there are no threads: the work is done here.
        inline = [thread for thread in self.threads if thread not in running]
        done += [
            thread.renew() and thread.shipper.run_once(max(0.0, until - monotonic()))
            for thread in inline
        ]
        return all(done)

    def close(self, timeout: float) -> bool:
        """Deliver what is left, as far as it goes within the timeout (seconds); then stop.

        Returns:
            Whether everything was delivered.
        """
        until = monotonic() + timeout
        done = self.flush(timeout)
        for thread in self.threads:
            thread.stop()
        for thread in self.threads:
            if not thread.join(max(until, monotonic() + _JOIN_SECONDS)):
                continue  # its sink hangs; what it holds goes with the process
            thread.shipper.close()
        return done
