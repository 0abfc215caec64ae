"""One rule of the guard: which calls it is for, and what it says about them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.entry import Risk
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.policyfile import any_fits, refuse_unknown, shown, texts

if TYPE_CHECKING:
    from collections.abc import Mapping


class Decision(StrEnum):
    """What becomes of a call."""

    ALLOW = "allow"
    """It goes out."""
    DENY = "deny"
    """It does not, and raises `AccessDenied`."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules look at that is the same for every call of an operation."""

    names: tuple[str, ...]
    """What it may be called, aliases too: ``profiles.get_profile``, ``GET /api/profiles/{id}``."""
    method: str
    scopes: frozenset[str]
    risk: str
    personal_data: bool
    effects: frozenset[str] = frozenset()
    """``message-send``, ``irreversible``, ``mass-data`` and the like."""
    known: bool = True
    """False: this version does not know the operation, so its classes are guesses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. A condition that is not given is met; of one that is, any item has to fit.

    But all scopes that an operation needs have to fit a rule that allows: what is allowed
    ``profiles:write`` may not add profiles to lists, which needs ``lists:write`` too.
    """

    decision: Decision
    name: str = ""
    operations: tuple[str, ...] = ()
    """Globs over the operation's names, any case: ``profiles.*``, ``DELETE /api/*``."""
    scopes: tuple[str, ...] = ()
    """Globs over the OAuth scopes Klaviyo documents for it. Needing none fits no scope."""
    risk: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    """HTTP methods."""
    effects: tuple[str, ...] = ()
    personal_data: bool | None = None
    environments: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    """Globs over the key's label (environment variable, service account) and fingerprint."""
    unknown: bool = False
    """A rule that allows: also for operations that this version does not know."""
    limit: int | None = None
    """How many people or objects a call may touch before it needs a word more."""

    @property
    def asks_who(self) -> bool:
        """Whether it depends on more than the operation and the environment."""
        return bool(self.users or self.keys)

    def unmet(self, call: Facts, environment: str | None) -> str | None:
        """The first condition about the operation that is not met; who calls is not looked at."""
        allows = self.decision is Decision.ALLOW
        if allows and not call.known and not self.unknown:
            return "unknown"
        if self.operations and not any_fits(self.operations, call.names):
            return "operations"
        if self.scopes and not self._covers(call.scopes, every=allows):
            return "scopes"
        if self.risk and call.risk not in self.risk:
            return "risk"
        if self.methods and call.method not in self.methods:
            return "methods"
        if self.effects and not any_fits(self.effects, call.effects):
            return "effects"
        if self.personal_data is not None and call.personal_data is not self.personal_data:
            return "personal_data"
        if self.environments and not any_fits(self.environments, (environment or "",)):
            return "environments"
        return None

    def fits(self, user: str, keys: tuple[str, ...]) -> bool:
        """Whether it is for this user and this key (by its names)."""
        if self.users and not any_fits(self.users, (user,)):
            return False
        return not self.keys or any_fits(self.keys, keys)

    def _covers(self, scopes: frozenset[str], *, every: bool) -> bool:
        if not every:
            return any_fits(self.scopes, scopes)
        return bool(scopes) and all(any_fits(self.scopes, (scope,)) for scope in scopes)


_NAMES: Final = frozenset(spec.name for spec in fields(Rule))
_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PATCH", "PUT", "DELETE")
_LISTS: Final = _NAMES - {"decision", "name", "personal_data", "unknown", "limit"}


def rule_of(table: Rule | Mapping[str, Any], where: str) -> Rule:
    """A rule from its table.

    Args:
        table: The rule's members, or a rule.
        where: What messages call the place it is from.

    Raises:
        ConfigurationError: It says something that is not understood. A condition that is misspelt
            would be met by every call.
    """
    if isinstance(table, Rule):
        return table
    if isinstance(name := table.get("name"), str) and name:
        where = f"{where} {shown(name)}"
    refuse_unknown(table, _NAMES, where)
    if table.get("decision") not in set(Decision):
        raise ConfigurationError(
            f"{where}: decision is {shown(table.get('decision'))}; allowed: {', '.join(Decision)}"
        )
    decision = Decision(table["decision"])
    lists: dict[str, Any] = {
        name: tuple(texts(table[name], f"{where}, {name}")) for name in _LISTS & set(table)
    }
    for risk in lists.get("risk", ()):
        if risk not in set(Risk):
            raise ConfigurationError(
                f"{where}: {shown(risk)} is no risk; allowed: {', '.join(Risk)}"
            )
    if "methods" in lists:
        lists["methods"] = tuple(method.upper() for method in lists["methods"])
        for method in lists["methods"]:
            if method not in _METHODS:
                raise ConfigurationError(
                    f"{where}: {shown(method)} is no HTTP method; allowed: {', '.join(_METHODS)}"
                )
    plain = ("name", "personal_data", "unknown", "limit")
    rest: dict[str, Any] = {name: table[name] for name in plain if name in table}
    for name, kind, words in (
        ("name", str, "a text"),
        ("personal_data", bool, "true or false"),
        ("unknown", bool, "true or false"),
    ):
        if name in rest and not isinstance(rest[name], kind):
            raise ConfigurationError(f"{where}: {name} is {shown(rest[name])}; give {words}")
    if rest.get("unknown") and decision is Decision.DENY:
        raise ConfigurationError(
            f"{where}: unknown is for rules that allow; one that denies is for operations this "
            "version does not know anyway"
        )
    if "limit" in rest:
        rest["limit"] = limit_of(rest["limit"], where)
    return Rule(decision=decision, **rest, **lists)


def limit_of(value: Any, where: str) -> int:
    """A limit as given.

    Raises:
        ConfigurationError: It is no whole number from 0.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigurationError(f"{where}: limit is {shown(value)}; give a whole number from 0")
