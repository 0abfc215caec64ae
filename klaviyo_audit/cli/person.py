"""The person that a command is about, and the keys to find them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klaviyo_audit.cli.location import fail

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from klaviyo_audit.privacy.pseudonyms import Pseudonyms
    from klaviyo_audit.settings import Settings

_WORDS: Final = {
    "email": "an e-mail address",
    "phone": "a phone number",
    "external_id": "an external id",
    "anonymous_id": "an anonymous id",
    "name": "a name",
    "user": "a user",
}


def settings_for(directory: Path) -> Settings:
    """The settings, with the journal's folder as the command was given it."""
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.settings import load

    try:
        return load(dir=directory if directory.is_dir() else directory.parent)
    except ConfigurationError as error:
        fail(str(error))


def understood(persons: Iterable[str]) -> str:
    """How what was given for persons was understood, for a message that nothing was found."""
    from klaviyo_audit.analysis.query import identifier
    from klaviyo_audit.privacy.pseudonyms import PATTERN

    kinds = dict.fromkeys(
        "a pseudonym" if PATTERN.fullmatch(one) else _WORDS[identifier(one)[0].value]
        for one in persons
    )
    return " and ".join(kinds)


def names_of(persons: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """The pseudonyms that entries about these persons may hold; exits when there is no key."""
    from klaviyo_audit.analysis import query
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.privacy.assembly import make_pseudonyms
    from klaviyo_audit.privacy.pseudonyms import PATTERN

    persons = tuple(persons)
    if all(PATTERN.fullmatch(person) for person in persons):
        return persons
    try:
        pseudonyms: Pseudonyms | None = make_pseudonyms(settings)
        if pseudonyms is None:
            fail(
                "entries name persons by pseudonyms, and there is no key to make them with: set "
                "KLAVIYO_AUDIT_PSEUDONYM_KEY (or _KEY_FILE, _KEY_COMMAND) to what the program has"
            )
        return tuple(name for person in persons for name in query.names_of(person, pseudonyms))
    except (ConfigurationError, ValueError) as error:
        fail(str(error))
