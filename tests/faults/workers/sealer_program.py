"""A program that seals, rotates, compresses and removes, while others write."""

import os
from hashlib import sha256
from pathlib import Path

from klaviyo_audit.journal import succession
from klaviyo_audit.journal.sealer import Sealer
from klaviyo_audit.journal.writer import JournalWriter

ROUNDS = 4
LINES = 12
ROTATE_BYTES = 3_000
RETAIN_BYTES = 1_500


def feed(journal: str, mirror: str, count: int = LINES) -> None:
    """Write lines as a writer of its own, and the hashes of their bytes to another file."""
    folder = Path(journal)
    path = folder / "audit.jsonl"
    before = path.stat().st_size if path.exists() else 0
    writer = JournalWriter(folder, user_id="u", origin={}, opening={}, on_loss=_raise)
    for number in range(count):
        writer.append(
            {
                "v": 1,
                "id": f"{os.getpid()}-{number}",
                "writer": None,
                "n": None,
                "timestamp": "2026-11-23T19:00:00.123456Z",
                "phase": "event",
                "action": "fed",
                "user_id": "u",
                "origin": None,
                "metadata": {"number": number},
            }
        )
    writer.close()
    lines = path.read_bytes()[before:].splitlines()
    assert len(lines) == count + 2
    with Path(mirror).open("a") as file:
        file.writelines(f"{sha256(bytes(1) + line).hexdigest()}\n" for line in lines)


def _raise(error: Exception) -> None:
    raise error


def sealer_of(journal: str, **options) -> Sealer:
    """A sealer that has something to do at each step."""
    succession.GRACE_SECONDS = 0.0
    return Sealer(
        Path(journal),
        rotate_bytes=ROTATE_BYTES,
        retain_bytes=RETAIN_BYTES,
        compress="gzip",
        seal_interval=0.0,
        pause=0,
        **options,
    )


def settle(sealer: Sealer, steps: int = 8) -> None:
    """Have a sealer do all that is due without waiting for it. Errors are raised."""
    for _ in range(steps):
        sealer._look_at = 0.0
        if sealer._succession is not None:
            sealer._succession._late_at = 0.0
        if sealer._chores is not None:
            sealer._chores._next_at = sealer._chores._retain_at = 0.0
        sealer.step()


def scripted_sealing(journal: str, mirror: str, tokens: int = 1) -> None:
    """Write and seal in turn; say on standard output what came of it."""
    import itertools
    import secrets

    numbers = itertools.count(tokens)
    secrets.token_hex = lambda size=32: f"{next(numbers):0{2 * size}x}"
    errors: list[Exception] = []
    sealer = sealer_of(journal, on_error=errors.append)
    for number in range(ROUNDS):
        # Another process: the faults are the sealer's.
        pid = os.fork()
        if pid == 0:
            secrets.token_hex = lambda size=32: os.urandom(size).hex()
            feed(journal, mirror)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        for _ in range(3):
            try:
                settle(sealer)
                break
            except Exception as error:
                errors.append(error)
        os.write(1, f"round {number}\n".encode())
    sealer.close()
    for error in errors:
        os.write(1, f"error {type(error).__name__} {error}\n".encode())
    os.write(1, b"closed\n")
