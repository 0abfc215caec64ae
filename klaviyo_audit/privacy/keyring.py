"""The keys that pseudonyms are made with: several, so that they can be exchanged."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.text import without_secrets

if TYPE_CHECKING:
    from pathlib import Path

FIRST_ID: Final = "k1"
"""Id of a key that is given without one."""
MIN_KEY: Final = 16
"""Characters that a key has at least."""
_ITEM: Final = re.compile(r"(?:(?P<id>[a-z][a-z0-9]{0,15}):)?(?P<key>.+)")
_RESERVED: Final = re.compile(r"s[0-9]+\Z")
_COMMAND_SECONDS: Final = 15.0
_MAX_BYTES: Final = 100_000
_IS_A_KEY: Final = re.compile(r"(?:^|:)[0-9A-Za-z+=_-]{32,}$")


@dataclass(frozen=True, slots=True)
class Key:
    """One key with the id that pseudonyms made with it carry."""

    id: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys, the newest first: that one writes, and all are tried when a person is looked for."""

    keys: tuple[Key, ...]

    @property
    def newest(self) -> Key:
        """The key that new pseudonyms are made with."""
        return self.keys[0]

    @classmethod
    def from_text(cls, text: str, source: str = "pseudonym_key") -> Self:
        """Read keys as ``id:key``, separated by commas or line ends, the newest first.

        A single key needs no id; its id is ``k1``. Ids are a small letter, then small letters and
        digits; ``s`` and a number is reserved.

        Args:
            text: The keys.
            source: Where they come from, for messages.

        Raises:
            ConfigurationError: There is none, one is too short, or an id is missing, reserved or
                there twice. No key is in the message.
        """
        items = [item.strip() for item in re.split(r"[,\r\n]", text) if item.strip()]
        if not items:
            raise ConfigurationError(f"{source}: there is no key in it; give one, or `id:key,...`")
        keys: list[Key] = []
        for number, item in enumerate(items, 1):
            match = _ITEM.fullmatch(item)
            assert match is not None
            if match["id"] is None and len(items) > 1:
                raise ConfigurationError(
                    f"{source}: key {number} of {len(items)} has no id; write several keys as "
                    "`k2:<newest>,k1:<older>` (a key itself may hold no comma)"
                )
            name = match["id"] or FIRST_ID
            if _RESERVED.match(name) or any(key.id == name for key in keys):
                raise ConfigurationError(
                    f"{source}: the id {name!r} of key {number} is taken; each key needs an id of "
                    "its own, and s and a number is kept for keys of subjects"
                )
            if len(match["key"]) < MIN_KEY:
                raise ConfigurationError(
                    f"{source}: key {number} is shorter than {MIN_KEY} characters; make one with "
                    "`openssl rand -hex 32`"
                )
            keys.append(Key(name, match["key"].encode("utf-8", "surrogatepass")))
        return cls(tuple(keys))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read keys from a file that nobody else may read.

        Raises:
            ConfigurationError: It cannot be read, others may read it, or see `from_text`.
        """
        source = f"pseudonym_key_file {without_secrets(str(path))!r}"
        try:
            with path.open("rb") as file:
                mode = path.stat().st_mode
                text = file.read(_MAX_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            if _IS_A_KEY.search(str(path)):
                raise ConfigurationError(
                    "pseudonym_key_file names no file that can be read; it looks like the key "
                    "itself, which belongs in pseudonym_key"
                ) from None
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigurationError(
                f"{source} cannot be read: {why}; name a file that the program may read"
            ) from None
        if mode & (stat.S_IRGRP | stat.S_IROTH) and stat.S_ISREG(mode):
            raise ConfigurationError(
                f"{source} can be read by others (mode {stat.S_IMODE(mode):04o}); chmod 600 it"
            )
        return cls.from_text(text, source)

    @classmethod
    def from_command(cls, command: str) -> Self:
        """Read keys from what a command prints, e.g. that of a secret manager.

        Args:
            command: Program and arguments, quoted as in a shell; no shell runs.

        Raises:
            ConfigurationError: It cannot be run, fails or takes more than 15 s, or see
                `from_text`. What it printed is not in the message.
        """
        source = "pseudonym_key_command"
        try:
            done = subprocess.run(  # noqa: S603  (the operator's own setting)
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_COMMAND_SECONDS,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigurationError(
                f"{source} cannot be run: {why}; give a program and its arguments"
            ) from None
        if done.returncode:
            raise ConfigurationError(
                f"{source} ended with exit code {done.returncode}; run it by hand to see why"
            )
        return cls.from_text(done.stdout[:_MAX_BYTES].decode("utf-8", "replace"), source)
