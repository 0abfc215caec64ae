"""Text signed with Ed25519, in C2SP's signed-note format.

Sources: c2sp.org/signed-note v1.0.0; for the form of the private key, and for the limits, Go's
``golang.org/x/mod/sumdb/note``.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt

if TYPE_CHECKING:
    # 43 ms to import: only where a signature is made or checked.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
"""The limits of Go's reader; C2SP wants at least 16 signatures of up to 5 kB to be read."""

BLANK_LINE = b"\n\n"
SIGNATURE_START = "— "

_ED25519 = b"\x01"
_KEY_BYTES = 32
_KEY_ID_BYTES = 4
_NAME_BYTES = 255  # what a witness's cosignature has room for (c2sp.org/tlog-cosignature)
_SIGNATURE_LINE = re.compile(SIGNATURE_START + r"([^\s+]+) ([A-Za-z0-9+/]+={0,2})")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 (RFC 4648, section 4), of which each value has only one text.

    Raises:
        ValueError: It is something else, unused bits that are not zero included.
    """
    value = b64decode(text, validate=True)
    if b64encode(value).decode() != text:
        raise ValueError("base64 with stray bits at its end")
    return value


def has_control_character(text: str) -> bool:
    """Whether `text` has a character that a note must not have; a newline is allowed."""
    return bool(_CONTROL.search(text))


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note, not verified."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text with its signature lines, not verified."""

    text: str
    signatures: tuple[Signature, ...]


def parse_note(data: bytes) -> Note:
    """Read a signed note without verifying anything.

    Raises:
        JournalCorrupt: It is not exactly what C2SP's signed-note describes, or is beyond
            `MAX_NOTE_BYTES` or `MAX_SIGNATURES`.
    """
    try:
        return _parsed(data)
    except ValueError as error:
        raise JournalCorrupt(f"this is not a signed note: {error}") from error


def _parsed(data: bytes) -> Note:
    if len(data) > MAX_NOTE_BYTES:
        raise ValueError(f"{len(data)} bytes, more than {MAX_NOTE_BYTES}")
    content = data.decode()
    if has_control_character(content):
        raise ValueError("it has a control character")
    head, blank, tail = content.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise ValueError("no blank line before its signatures, or no newline at its end")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise ValueError(f"{len(lines)} signatures, more than {MAX_SIGNATURES}")
    return Note(f"{head}\n", tuple(_signature(line) for line in lines))


def _signature(line: str) -> Signature:
    match = _SIGNATURE_LINE.fullmatch(line)
    value = decode_base64(match[2]) if match else b""
    if not match or len(value) <= _KEY_ID_BYTES:
        raise ValueError(f"{line[:80]!r} is not a signature line")
    return Signature(match[1], value[:_KEY_ID_BYTES], value[_KEY_ID_BYTES:])


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key under a name: what has to be known, and trusted, to check a checkpoint."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public_key) != _KEY_BYTES:
            raise ConfigurationError(
                f"the Ed25519 public key of {self.name!r} has {len(self.public_key)} bytes, "
                f"not {_KEY_BYTES}"
            )

    @property
    def key_id(self) -> bytes:
        """The four bytes that name this key in a signature line; no protection by themselves."""
        digest = sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()
        return digest[:_KEY_ID_BYTES]

    def to_text(self) -> str:
        """The key as C2SP's vkey, ``<name>+<key id>+<base64>``: one line that can be published."""
        return _key_text(self.name, self.key_id, self.public_key)

    @classmethod
    def from_text(cls, text: str) -> Verifier:
        """Read a vkey; white space around it is ignored.

        Raises:
            ConfigurationError: It is not the vkey of an Ed25519 key. The text is not quoted,
                since it may be a private key that was mistaken for the public one.
        """
        parts = text.strip().split("+", 2)
        if parts[0] == "PRIVATE":
            raise ConfigurationError(
                "a private key was given where the public one belongs (`<name>+<id>+<base64>`); "
                "take care who has seen it"
            )
        verifier = cls(parts[0], _key_bytes(parts, "public key"))
        _check_key_id(parts, verifier)
        return verifier

    def holds(self, text: str, signature: bytes) -> bool:
        """Whether `signature` is this key's on `text`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            key = Ed25519PublicKey.from_public_bytes(self.public_key)
            key.verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Signer:
    """A private key under a name. Its `repr` does not show the key."""

    name: str
    private_key: Ed25519PrivateKey = field(repr=False)

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.name, self.private_key.public_key().public_bytes_raw())

    def to_text(self) -> str:
        """The SECRET key in Go's form, ``PRIVATE+KEY+<name>+<key id>+<base64>``."""
        seed = self.private_key.private_bytes_raw()
        return f"PRIVATE+KEY+{_key_text(self.name, self.verifier.key_id, seed)}"

    @classmethod
    def from_text(cls, text: str) -> Signer:
        """Read a private key in Go's form; white space around it is ignored.

        Raises:
            ConfigurationError: It is not an Ed25519 key in this form. The text is not quoted.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        parts = text.strip().split("+", 4)
        form, parts = parts[:2], parts[2:]
        if form != ["PRIVATE", "KEY"]:
            raise ConfigurationError(
                "the signing key is not of the form PRIVATE+KEY+<name>+<id>+<base64> (its value "
                "is not shown); `klaviyo-audit keygen` makes one"
            )
        seed = _key_bytes(parts, "signing key")
        signer = cls(parts[0], Ed25519PrivateKey.from_private_bytes(seed))
        _check_key_id(parts, signer.verifier)
        return signer


def generate_key(name: str) -> Signer:
    """Make a new Ed25519 key from the operating system's randomness.

    Args:
        name: Best a URL without its scheme that is unique to this journal
            (``example.com/loyalty/audit``).

    Raises:
        ConfigurationError: `name` can't be the name of a key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    _check_name(name)
    return Signer(name, Ed25519PrivateKey.generate())


def _key_text(name: str, key_id: bytes, material: bytes) -> str:
    return f"{name}+{key_id.hex()}+{b64encode(_ED25519 + material).decode()}"


def _key_bytes(parts: list[str], what: str) -> bytes:
    try:
        _, _, encoded = parts
        material = decode_base64(encoded)
    except ValueError:
        # Without the cause, whose message can quote the key.
        raise ConfigurationError(
            f"the {what} is not of the form <name>+<id>+<base64> (its value is not shown)"
        ) from None
    if material[:1] != _ED25519 or len(material) != 1 + _KEY_BYTES:
        raise ConfigurationError(f"the {what} is not an Ed25519 key (type 1, {_KEY_BYTES} bytes)")
    return material[1:]


def _check_key_id(parts: list[str], verifier: Verifier) -> None:
    if parts[1] != verifier.key_id.hex():
        raise ConfigurationError(
            f"the key named {verifier.name!r} has the id {verifier.key_id.hex()}, but its text "
            "says otherwise: name, id or key were changed or mistyped"
        )


def _check_name(name: str) -> None:
    if not name.isprintable() or not name or " " in name or "+" in name:
        raise ConfigurationError(f"{name!r} can't name a key: no spaces, no plus, not empty")
    if len(name.encode()) > _NAME_BYTES:
        raise ConfigurationError(f"{name[:40]!r}... can't name a key: over {_NAME_BYTES} bytes")


def sign_note(text: str, signer: Signer) -> bytes:
    """Make a note of a text.

    Raises:
        ValueError: The text can't be that of a note: it has to end with a newline, without any
            other control character.
    """
    if not text.endswith("\n") or has_control_character(text):
        raise ValueError("the text of a note ends with a newline, its only control character")
    return f"{text}\n{SIGNATURE_START}{signer.name} {signature_on(text, signer)}\n".encode()


def signature_on(text: str, signer: Signer) -> str:
    """What a signature line has after the name: key id and signature, in base64."""
    signature = signer.verifier.key_id + signer.private_key.sign(text.encode())
    return b64encode(signature).decode()


def open_note(data: bytes, *verifiers: Verifier) -> tuple[str, frozenset[Verifier]]:
    """Read a note that at least one of the given keys has signed.

    Signatures of other keys are ignored, so that witnesses can add theirs and a log can change
    its key.

    Returns:
        The text, with the keys that signed it.

    Raises:
        JournalCorrupt: The note is malformed, a given key's signature is wrong or there twice, or
            no given key has signed.
    """
    note = parse_note(data)
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    signed_by: set[Verifier] = set()
    for line in note.signatures:
        verifier = known.get((line.name, line.key_id))
        if verifier is None:
            continue
        if verifier in signed_by or not verifier.holds(note.text, line.signature):
            raise JournalCorrupt(
                f"a wrong or repeated signature of {line.name!r} (key id {line.key_id.hex()}): "
                "the note was changed after it was signed"
            )
        signed_by.add(verifier)
    if not signed_by:
        names = ", ".join(f"{line.name[:80]} ({line.key_id.hex()})" for line in note.signatures[:3])
        raise JournalCorrupt(
            f"no signature of a key that was given; it is signed by {names!r}: give that key if it "
            "is the log's and you trust it"
        )
    return note.text, frozenset(signed_by)
