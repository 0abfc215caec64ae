"""Remembering deliveries, so that none is accepted twice, in bounded memory."""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CAPACITY: Final = 100_000
_BUSY_SECONDS: Final = 5.0
_ROUNDS: Final = 256
"""How many claims go by before a shared memory counts what it holds."""


class Replays(Protocol):
    """A memory of accepted deliveries."""

    def claim(self, key: bytes, sent: float, until: float) -> bool:
        """Take a delivery as seen.

        Args:
            key: What makes it this delivery.
            sent: When it was sent, in seconds since the epoch (signed).
            until: From when on its age alone refuses it; infinity for never.

        Returns:
            Whether it is new. False also for one that is older than what had to be forgotten, and
            for one whose time was over when it was asked for, at whatever moment until now.

        Raises:
            OSError: The memory cannot be asked.
        """

    def release(self, key: bytes) -> None:
        """Forget a delivery that could not be worked on: Klaviyo may send it again."""


class ReplayMemory:
    """Remembers the deliveries of one process.

    Only what Klaviyo signed gets here, so nobody else can fill it. When it is full the oldest
    delivery is forgotten, and from then on none that was sent before it is accepted: a replay
    never passes, at the price of refusing late deliveries while there are too many.

    Args:
        capacity: Deliveries to remember, about 200 bytes each.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._order: list[tuple[float, float, bytes]] = []
        self._floor = -math.inf
        # The clock may be set back, and what it was forgotten by must not be accepted again.
        self._latest = -math.inf

    def claim(self, key: bytes, sent: float, until: float) -> bool:
        """See `Replays.claim`."""
        with self._lock:
            self._latest = now = max(self._latest, time.time())
            while self._order and self._order[0][0] < now:
                self._known.discard(heapq.heappop(self._order)[2])
            if key in self._known or sent <= self._floor or until < now:
                return False
            self._known.add(key)
            heapq.heappush(self._order, (until, sent, key))
            while len(self._order) > self._capacity:
                _, oldest, forgotten = heapq.heappop(self._order)
                self._known.discard(forgotten)
                self._floor = max(self._floor, oldest)
            return True

    def release(self, key: bytes) -> None:
        """See `Replays.release`."""
        with self._lock:
            self._known.discard(key)

    def __len__(self) -> int:
        return len(self._known)


class SharedReplayMemory:
    """Remembers deliveries in an SQLite file, for all processes of a host that name it.

    For servers with several workers, where a replay could reach a worker that has not seen the
    delivery. The file is made with mode 0600; it holds hashes and times. Bounded as
    `ReplayMemory` is.

    Args:
        path: The file, on a local file system.
        capacity: Deliveries to remember.
    """

    def __init__(self, path: str | os.PathLike[str] | Path, capacity: int = _CAPACITY) -> None:
        self._path = os.fspath(path)
        self._capacity = capacity
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._claims = 0

    def claim(self, key: bytes, sent: float, until: float) -> bool:
        """See `Replays.claim`."""
        with self._transaction() as connection:
            connection.execute("UPDATE clock SET latest = max(latest, ?)", (time.time(),))
            (now,) = connection.execute("SELECT latest FROM clock").fetchone()
            connection.execute("DELETE FROM seen WHERE until < ?", (now,))
            (floor,) = connection.execute("SELECT sent FROM floor").fetchone()
            if sent <= floor or until < now:
                return False
            added = connection.execute(
                "INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (key, sent, until)
            ).rowcount
            self._claims += 1
            if self._claims % min(_ROUNDS, self._capacity) == 0:
                self._bound(connection)
            return bool(added == 1)

    def release(self, key: bytes) -> None:
        """See `Replays.release`."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM seen WHERE key = ?", (key,))

    def close(self) -> None:
        """Close the file; the next claim opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _bound(self, connection: sqlite3.Connection) -> None:
        (count,) = connection.execute("SELECT count(*) FROM seen").fetchone()
        if count <= self._capacity:
            return
        (floor,) = connection.execute(
            "SELECT sent FROM seen ORDER BY sent LIMIT 1 OFFSET ?", (count - self._capacity - 1,)
        ).fetchone()
        connection.execute("DELETE FROM seen WHERE sent <= ?", (floor,))
        connection.execute("UPDATE floor SET sent = max(sent, ?)", (floor,))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._opened()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise OSError(f"the memory of deliveries {self._path!r} failed: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        # A connection of before a fork must be neither used nor closed here.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        os.close(os.open(self._path, flags, 0o600))
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        # After a power loss the last deliveries may be forgotten; a sync each costs milliseconds.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(
            "BEGIN IMMEDIATE;"
            "CREATE TABLE IF NOT EXISTS seen"
            " (key BLOB PRIMARY KEY, sent REAL, until REAL) WITHOUT ROWID;"
            "CREATE INDEX IF NOT EXISTS seen_until ON seen (until);"
            "CREATE INDEX IF NOT EXISTS seen_sent ON seen (sent);"
            "CREATE TABLE IF NOT EXISTS floor (sent REAL);"
            "INSERT INTO floor SELECT -1e300 WHERE NOT EXISTS (SELECT 1 FROM floor);"
            "CREATE TABLE IF NOT EXISTS clock (latest REAL);"
            "INSERT INTO clock SELECT -1e300 WHERE NOT EXISTS (SELECT 1 FROM clock);"
            "COMMIT;"
        )
        self._connection, self._pid = connection, os.getpid()
        return connection
