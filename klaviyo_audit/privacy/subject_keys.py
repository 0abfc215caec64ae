"""A key for each person, in an encrypted store: destroying it is how a person is forgotten."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections import OrderedDict
from contextlib import suppress
from threading import Lock
from time import time
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.pseudonyms import DIGITS, Mac, message

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.privacy.identifiers import Kind

FILE_NAME: Final = "subjects.sqlite"
KEY_ID: Final = "s1"
"""Id in pseudonyms that a subject's own key made."""
_EPOCH_SUFFIX: Final = ".epoch"
_NONCE: Final = 12
_CACHED: Final = 10_000
_BUSY_SECONDS: Final = 5.0
_SCHEMA: Final = (
    (
        "create table if not exists subject (idx blob primary key, nonce blob not null, "
        "sealed blob not null, created integer not null) without rowid"
    ),
    "create table if not exists proof (nonce blob not null, sealed blob not null)",
)
_CHECK: Final = b"klaviyo-audit subject keys"


class StillInLog(ConfigurationError):  # noqa: N818  (what happened, as in the other errors)
    """The key is destroyed, and its last copy is still in the write-ahead log."""


class SubjectKeys:
    """The keys of subjects, each encrypted by AES-256-GCM under a master key kept elsewhere.

    A subject is found by an HMAC of the identifier, so that the file names nobody either. Safe for
    threads, and for processes of one host; a key that one process destroyed is used by no other
    any more, since each looks at a counter beside the store before it uses what it remembers.

    Args:
        path: The SQLite file; made (0600) when the first key is.
        master: The master key: any 16 or more characters, best random.
    """

    def __init__(self, path: Path, master: bytes) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(hashes.SHA256(), 64, salt=None, info=_CHECK).derive(master)
        self._path = path
        self._epoch_path = path.with_name(path.name + _EPOCH_SUFFIX)
        self._index = Mac(derived[:32])
        self._aead = AESGCM(derived[32:])
        self._lock = Lock()
        self._known: OrderedDict[bytes, Mac] = OrderedDict()
        self._epoch: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The one id that pseudonyms by subjects' own keys carry."""
        return (KEY_ID,)

    def name(self, kind: Kind, normal: str) -> str | None:
        """The pseudonym by the subject's own key, which is made if there is none.

        Returns:
            None when the store cannot be used: then the identifier has to be masked.
        """
        index = self._index.digest(message(kind, normal))
        with self._lock:
            try:
                mac = self._key(index, make=True)
            except (sqlite3.Error, OSError, ConfigurationError):
                return None
        assert mac is not None
        return f"{kind}:{KEY_ID}:{mac.hexdigest(message(kind, normal))[:DIGITS]}"

    def names(self, kind: Kind, normal: str) -> list[str]:
        """The pseudonym by the subject's own key, if there is one.

        Raises:
            ConfigurationError: The store belongs to another master key, or cannot be read.
        """
        index = self._index.digest(message(kind, normal))
        with self._lock:
            try:
                mac = self._key(index, make=False)
            except (sqlite3.Error, OSError) as error:
                raise self._unusable(error) from None
        if mac is None:
            return []
        return [f"{kind}:{KEY_ID}:{mac.hexdigest(message(kind, normal))[:DIGITS]}"]

    def forget(self, kind: Kind, normal: str) -> bool:
        """Destroy the key of a subject.

        The row is overwritten, not just unlinked, and the write-ahead log is emptied. What cannot
        be reached from here are copies of the file: destroy backups, or exchange the master key.

        Returns:
            Whether there was one.

        Raises:
            StillInLog: See there.
            ConfigurationError: The store belongs to another master key, or cannot be written.
        """
        index = self._index.digest(message(kind, normal))
        with self._lock:
            try:
                connection = self._open(make=False)
                if connection is None:
                    return False
                with connection:
                    gone = connection.execute("delete from subject where idx = ?", (index,))
                    # Once before nobody can read the key any more, so that a kill after that finds
                    # it remembered by none who looked until now, and once after it.
                    self._next_epoch()
                self._next_epoch()
                self._known.clear()
                # Also where there was none: whoever destroyed it may have been killed here.
                busy = connection.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
            except (sqlite3.Error, OSError) as error:
                raise self._unusable(error) from None
        if busy:
            raise StillInLog(
                f"the key is destroyed, but its last copy is still in {str(self._path)!r}-wal, "
                "since others read the store all the time; forget anybody again to empty that"
            )
        return gone.rowcount > 0

    def check(self) -> None:
        """Find out whether the store, if there is one, was made with this master key.

        Raises:
            ConfigurationError: It was not, or cannot be read.
        """
        with self._lock:
            try:
                self._open(make=False)
            except (sqlite3.Error, OSError) as error:
                raise self._unusable(error) from None

    def __len__(self) -> int:
        """How many subjects have a key."""
        with self._lock:
            connection = self._open(make=False)
            if connection is None:
                return 0
            count: int = connection.execute("select count(*) from subject").fetchone()[0]
            return count

    def close(self) -> None:
        """Close the file, and forget what is remembered of it."""
        with self._lock:
            self._known.clear()
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _key(self, index: bytes, *, make: bool) -> Mac | None:
        epoch = self._read_epoch()
        if epoch != self._epoch:
            self._known.clear()
            self._epoch = epoch
        known = self._known.get(index)
        if known is not None:
            return known
        connection = self._open(make=make)
        if connection is None:
            return None
        row = self._select(connection, index)
        if row is None and make:
            self._insert(connection, index)
            row = self._select(connection, index)  # that of another process, if it was faster
        if row is None:
            return None
        mac = Mac(self._decrypt(row[0], row[1], index))
        self._known[index] = mac
        if len(self._known) > _CACHED:
            self._known.popitem(last=False)
        return mac

    @staticmethod
    def _select(connection: sqlite3.Connection, index: bytes) -> tuple[bytes, bytes] | None:
        found: tuple[bytes, bytes] | None = connection.execute(
            "select nonce, sealed from subject where idx = ?", (index,)
        ).fetchone()
        return found

    def _insert(self, connection: sqlite3.Connection, index: bytes) -> None:
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._aead.encrypt(nonce, secrets.token_bytes(32), index)
        with connection:
            connection.execute(
                "insert or ignore into subject values (?, ?, ?, ?)",
                (index, nonce, sealed, int(time())),
            )

    def _decrypt(self, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise self._unusable("another subject_master_key made it, or it was changed") from None

    def _open(self, *, make: bool) -> sqlite3.Connection | None:
        if self._connection is not None:
            if self._pid == os.getpid():
                return self._connection
            # SQLite's connections must not be used, nor closed, after a fork.
            _abandoned.append(self._connection)
            self._connection = None
        self._pid = os.getpid()
        if not self._path.exists():
            if not make:
                return None
            with suppress(FileExistsError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        for pragma in ("journal_mode=wal", "synchronous=normal", "secure_delete=on"):
            connection.execute(f"pragma {pragma}").fetchall()
        for statement in _SCHEMA:
            connection.execute(statement)
        with connection:
            connection.execute("begin immediate")
            row = connection.execute("select nonce, sealed from proof").fetchone()
            if row is None:
                nonce = secrets.token_bytes(_NONCE)
                row = (nonce, self._aead.encrypt(nonce, _CHECK, None))
                connection.execute("insert into proof values (?, ?)", row)
        # A wrong master key is told at once, and not by pseudonyms that match nothing.
        self._decrypt(row[0], row[1], b"")

    def _read_epoch(self) -> tuple[int, int] | None:
        try:
            facts = os.stat(self._epoch_path)  # noqa: PTH116  (half the time of Path.stat)
        except FileNotFoundError:
            return None
        return facts.st_ino, facts.st_mtime_ns

    def _next_epoch(self) -> None:
        fresh = self._epoch_path.with_name(f"{self._epoch_path.name}.{os.getpid()}")
        fresh.write_text(secrets.token_hex(8))
        fresh.chmod(0o600)
        # The clock of a file system stands still for milliseconds, and an inode's number is used
        # again.
        moment = secrets.randbits(60)
        os.utime(fresh, ns=(moment, moment))
        fresh.replace(self._epoch_path)

    def _unusable(self, why: object) -> ConfigurationError:
        return ConfigurationError(
            f"the subject keys in {str(self._path)!r} cannot be used: {why}; give the "
            "subject_master_key they were made with, or move the file away"
        )


_abandoned: list[sqlite3.Connection] = []
"""Connections of a parent process, kept so that nobody closes them here."""
