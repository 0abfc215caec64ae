"""Stable keyed pseudonyms: the same person has the same value, and it tells nobody who that is."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

from klaviyo_audit.privacy.identifiers import Kind, email, normalise

if TYPE_CHECKING:
    from klaviyo_audit.privacy.keyring import Key, KeyRing

_EMAIL: Final = Kind.EMAIL  # a look-up in an enumeration is 70 ns in Python 3.11
DIGITS: Final = 32
"""Hexadecimal digits in a pseudonym: HMAC-SHA256, cut to 128 bits."""
PATTERN: Final = re.compile(
    r"(?<![A-Za-z0-9_:])(?:email|phone|external_id|anonymous_id|name|user)"
    rf":[a-z][a-z0-9]{{0,15}}:[0-9a-f]{{{DIGITS}}}(?![0-9a-f])"
)
"""A pseudonym in a text."""
_BLOCK: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


class Mac:
    """HMAC-SHA256 (RFC 2104) under one key, with both of its states computed once.

    A message costs 0.8 us instead of the 2.1 of `hmac.new`.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK:
            key = sha256(key).digest()
        key = key.ljust(_BLOCK, b"\0")
        self._inner = sha256(key.translate(_INNER))
        self._outer = sha256(key.translate(_OUTER))

    def hexdigest(self, message: bytes) -> str:
        """The code of a message, 64 hexadecimal digits."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    def begun(self, prefix: bytes) -> tuple[Any, Any]:
        """Copies of both states, the inner one with the beginning of a message in it."""
        inner = self._inner.copy()
        inner.update(prefix)
        return inner, self._outer.copy()

    def digest(self, message: bytes) -> bytes:
        """The code of a message, 32 bytes."""
        return bytes.fromhex(self.hexdigest(message))


def message(kind: Kind, normal: str) -> bytes:
    """What is authenticated: the kind, a colon, and the identifier in its one spelling, UTF-8."""
    # Members of a StrEnum are strings: adding them is three times faster than asking their value.
    return (kind + ":" + normal).encode("utf-8", "surrogatepass")


class Naming(Protocol):
    """Makes pseudonyms, with one key for all or with a key for each subject."""

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids that its pseudonyms may carry."""

    def name(self, kind: Kind, normal: str) -> str | None:
        """The pseudonym of a normalised identifier; None if none can be made now."""

    def names(self, kind: Kind, normal: str) -> list[str]:
        """All pseudonyms that entries may hold for it, the newest first."""


class RingNaming:
    """Pseudonyms by the keys of a ring."""

    __slots__ = ("_macs", "_newest")

    def __init__(self, ring: KeyRing) -> None:
        self._macs = [(key.id, Mac(key.secret)) for key in ring.keys]
        newest = self._macs[0][1]
        self._newest = {
            kind: (f"{kind.value}:{ring.newest.id}:", *newest.begun(message(kind, "")))
            for kind in Kind
        }

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ring's ids, the newest first."""
        return tuple(name for name, _ in self._macs)

    def name(self, kind: Kind, normal: str) -> str:
        """The pseudonym by the newest key."""
        prefix, inner, outer = self._newest[kind]
        inner, outer = inner.copy(), outer.copy()
        inner.update(normal.encode("utf-8", "surrogatepass"))
        outer.update(inner.digest())
        name: str = prefix + outer.hexdigest()[:DIGITS]
        return name

    def names(self, kind: Kind, normal: str) -> list[str]:
        """The pseudonyms by every key, the newest first."""
        text = message(kind, normal)
        return [f"{kind.value}:{id_}:{mac.hexdigest(text)[:DIGITS]}" for id_, mac in self._macs]


class Pseudonyms:
    """Pseudonyms of identifiers as people write them.

    Args:
        naming: Which keys; several are asked in turn when a person is looked for, the first writes.
        region: Country whose national phone numbers are understood.
    """

    __slots__ = ("_digest", "_naming", "_writing", "region")

    def __init__(
        self, naming: tuple[Naming, ...], digest_key: Key, region: str | None = None
    ) -> None:
        self._naming = naming
        self._writing = naming[0]
        self._digest = (digest_key.id, Mac(b"digest:" + digest_key.secret))
        self.region = region

    @property
    def key_ids(self) -> str:
        """Ids of the keys, the one that writes first, separated by commas."""
        return ",".join(one for naming in self._naming for one in naming.key_ids)

    def of(self, kind: Kind, value: str) -> str | None:
        """The pseudonym of an identifier; None if it is none of that kind."""
        normal = email(value) if kind is _EMAIL else normalise(kind, value, self.region)
        return None if normal is None else self._writing.name(kind, normal)

    def of_normal(self, kind: Kind, normal: str) -> str | None:
        """The pseudonym of an identifier in its one spelling."""
        return self._writing.name(kind, normal)

    def all_of(self, kind: Kind, value: str) -> list[str]:
        """Every pseudonym that entries may hold for an identifier, the newest first."""
        normal = normalise(kind, value, self.region)
        if normal is None:
            return []
        return [one for naming in self._naming for one in naming.names(kind, normal)]

    def digest(self, text: str) -> str:
        """A keyed digest of a text that was cut: ``<key id>:<16 hexadecimal digits>``.

        Keyed, since what was cut may be guessed and a plain digest would confirm the guess.
        """
        name, mac = self._digest
        return f"{name}:{mac.hexdigest(text.encode('utf-8', 'surrogatepass'))[:16]}"
