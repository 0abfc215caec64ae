"""The one gate that everything passes on its way into an entry, and so to every sink."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote

from klaviyo_audit.privacy import carried as carrying
from klaviyo_audit.privacy import text as texts
from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.plain import plain
from klaviyo_audit.privacy.policy import Level, Policy, Subject
from klaviyo_audit.privacy.secrets import CREDENTIALS
from klaviyo_audit.privacy.values import Cleaner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klaviyo_audit.privacy.policy import Rule
    from klaviyo_audit.privacy.pseudonyms import Pseudonyms
    from klaviyo_audit.privacy.secrets import Credentials

_MAX_IDENTITY: Final = 256
_MAX_KNOWN: Final = 4_096
_MAX_SEGMENT: Final = 2_000
_MAX_SEGMENTS: Final = 30

# A path that only has these characters, and nothing that starts like a key, is kept as it is.
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9/_\-.:~$]{0,300}\Z")
_PLAIN_SEGMENT: Final = re.compile(r"(?!.*(?:[Pp][Kk]_|eyJ)|00[0-9]{9})[A-Za-z0-9_\-.:~$]{0,200}\Z")
# JSON:API: a resource is named by its type and id (https://jsonapi.org/format/#document-resource-objects).
_IDENTIFIER: Final = re.compile(r"(?!.*(?:[Pp][Kk]_|eyJ)|00[0-9]{9})[A-Za-z0-9_$:.\-]{1,100}\Z")
# A name that source or the standard library gives; with more digits it may be a number of a phone.
_NAME: Final = re.compile(
    r"(?!.*(?:[Pp][Kk]_|eyJ)|00[0-9]{9})(?=(?:\D*\d){0,6}\D*\Z)"
    r"[A-Za-z0-9_.<>-]{1,100}(?: \([A-Za-z0-9_.<>]{1,60}\))?\Z"
)
# An id that a server gives a request.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}\Z")


class Gate:
    """Decides what of a call an entry may hold, and brings it into a form that may be held.

    Safe for threads. Nothing gets into an entry but through one of its methods.

    Args:
        pseudonyms: Makes them; without, what identifies a person is masked.
        policy: How much is kept of which calls.
        environment: The deployment, which rules may ask for.
        actor_ids: Whether actors' ids are kept or become pseudonyms.
        credentials: Values that are secrets although they look like nothing.
    """

    def __init__(
        self,
        pseudonyms: Pseudonyms | None = None,
        *,
        policy: Policy | None = None,
        environment: str | None = None,
        actor_ids: Literal["keep", "pseudonym"] = "keep",
        credentials: Credentials = CREDENTIALS,
    ) -> None:
        self.pseudonyms = pseudonyms
        self.policy = Policy() if policy is None else policy
        self._environment = environment
        self._actor_pseudonyms = actor_ids == "pseudonym"
        self._credentials = credentials
        self._levels: dict[object, Level | tuple[Rule, ...]] = {}

    def text(self, text: str, limit: int = texts.MAX_TEXT) -> str:
        """Text of any kind: secrets masked, persons by pseudonym or masked, cut with a mark."""
        return texts.clean(text, limit, pseudonyms=self.pseudonyms, credentials=self._credentials)

    def value(self, value: Any) -> Any:
        """A value of any type: metadata, captured arguments. See `values.Cleaner.clean`."""
        return Cleaner(self.pseudonyms, self._credentials).clean(value)

    def without(self, value: Any, carried: Mapping[str, str]) -> Any:
        """A value that passed this gate, also without what a call's request says of persons."""
        return carrying.without(value, carried)

    def carried(self, said: Iterable[tuple[Kind | None, str]]) -> dict[str, str]:
        """What a request says of persons, as `without` takes it; the first 2,000 values."""
        found: dict[str, str] = {}
        for kind, value in said:
            text = carrying.worth(value)
            if text is None or text in found:
                continue
            if len(found) >= carrying.MAX_VALUES:
                break
            name = None if kind is None else self.pseudonym(kind, value)
            found[text] = texts.MASKED_PERSONAL if name is None else name
        return found

    def identity(self, text: str) -> str:
        """An actor's id, without secrets.

        An e-mail address is what names the actor and stays, unless ``actor_ids`` says otherwise.
        """
        text = text[:_MAX_IDENTITY]
        if self._actor_pseudonyms:
            name = None if self.pseudonyms is None else self.pseudonyms.of(Kind.USER, text)
            return texts.MASKED_PERSONAL if name is None else name
        return texts.without_secrets(text, self._credentials)

    def pseudonym(self, kind: Kind, value: str) -> str | None:
        """The pseudonym of an identifier; None without a key, or if it is none of that kind."""
        return None if self.pseudonyms is None else self.pseudonyms.of(kind, value)

    def is_identifier(self, value: str) -> bool:
        """Whether an id of a resource may stay as it is."""
        return _IDENTIFIER.match(value) is not None and not self._credentials.found_in(value)

    def setting(self, text: str) -> str:
        """What an operator has set, or the machine is called: without secrets."""
        return texts.without_secrets(text[:_MAX_IDENTITY], self._credentials)

    def describe(self) -> dict[str, str]:
        """How this gate treats persons and which policy it has, for a journal's first line."""
        keys = "none: persons are masked" if self.pseudonyms is None else self.pseudonyms.key_ids
        return {"pseudonyms": keys, "policy": self.policy.digest()}

    def name(self, name: str, limit: int = 200) -> str:
        """A name out of somebody's source, as of a class or a thread."""
        if _NAME.match(name) is not None and not self._credentials.found_in(name):
            return name
        return self.text(name, limit)

    def token(self, value: str) -> str:
        """An id that a server gives, as in a response's header."""
        if (
            "eyJ" not in value
            and "pk_" not in value
            and "PK_" not in value
            and value[:2] != "00"
            and _TOKEN.match(value) is not None
            and not self._credentials.found_in(value)
        ):
            return value
        # No id, so it may be anybody's words.
        return f"[masked:{len(value)}]"

    def path(self, path: str) -> str:
        """A resource's path: ids stay, anything that may be a secret or a person does not.

        Args:
            path: The path of a URL, percent-encoded as it was sent, without the query.
        """
        if (
            # A look-ahead in the pattern took longer than all the rest. 00: of a phone number.
            "pk_" not in path
            and "PK_" not in path
            and "eyJ" not in path
            and "/00" not in path
            and _PLAIN_PATH.match(path) is not None
            and not self._credentials.found_in(path)
        ):
            return path
        return "/".join(map(self._segment, path.split("/", _MAX_SEGMENTS)))

    def _segment(self, segment: str) -> str:
        if len(segment) > _MAX_SEGMENT:
            return f"[masked:{len(segment)}]"
        # A value may arrive encoded already.
        decoded = plain(segment)
        if decoded is None:
            return f"[masked:{len(segment)}]"
        is_plain = _PLAIN_SEGMENT.match(unquote(unquote(segment))) is not None
        if (
            is_plain
            and _PLAIN_SEGMENT.match(decoded) is not None
            and not self._credentials.found_in(decoded)
        ):
            return segment
        if self.pseudonyms is not None:
            for kind in (Kind.EMAIL, Kind.PHONE):
                name = self.pseudonyms.of(kind, decoded)
                if name is not None:
                    return name
        return f"[masked:{len(decoded)}]"

    def level(self, target: object, subject: Subject, user: str) -> Level:
        """How much is kept of a call.

        Args:
            target: Stands for the operation; what is known about it is remembered.
            subject: The operation, as rules see it; its environment is the gate's.
            user: The actor's id as given.
        """
        known = self._levels.get(target)
        if known is None:
            known = self._learn(target, subject)
        if isinstance(known, Level):
            return known
        for rule in known:
            if rule.fits_user(user):
                return rule.level
        return self.policy.default

    def _learn(self, target: object, subject: Subject) -> Level | tuple[Rule, ...]:
        rules = self.policy.candidates(self.located(subject))
        known: Level | tuple[Rule, ...] = rules
        if not rules:
            known = self.policy.default
        elif not rules[0].users:
            known = rules[0].level
        if len(self._levels) >= _MAX_KNOWN:
            self._levels.clear()
        self._levels[target] = known
        return known

    def located(self, subject: Subject) -> Subject:
        """The operation in this gate's environment."""
        return Subject(subject.names, subject.scopes, subject.risk, self._environment)
