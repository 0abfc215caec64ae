"""The policy file: which rule says how much of a call the trail keeps.

One TOML file: privacy has the table ``[privacy]``, and the guard has ``[guard]``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from klaviyo_audit.entry import Risk
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.policyfile import any_fits, read_table, refuse_unknown, shown, source_of, texts

if TYPE_CHECKING:
    from pathlib import Path


class Level(StrEnum):
    """How much of a call is kept, after redaction."""

    NONE = "none"
    """Its bare facts: who, what, when, how it ended."""
    METADATA = "metadata"
    """Also what the caller adds, and whom the call is about (as pseudonyms)."""
    REQUEST = "request"
    """Also what the allow-list keeps of the request."""
    REQUEST_RESPONSE = "request_response"
    """Also what it keeps of the response."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What rules look at: the call, and who makes it where."""

    names: tuple[str, ...]
    """What its operation may be called: ``profiles.get_profile``, ``GET /api/profiles/{id}``."""
    scopes: frozenset[str] = frozenset()
    risk: str | None = None
    environment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. A condition that is not given is met; of one that is, any item has to fit."""

    level: Level
    name: str = ""
    operations: tuple[str, ...] = ()
    """Globs over the operation's names, any case: ``profiles.*``, ``DELETE /api/*``."""
    scopes: tuple[str, ...] = ()
    """OAuth scopes that Klaviyo documents for the operation, as globs."""
    risk: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    def unmet(self, call: Subject) -> str | None:
        """The first condition about the call that is not met; users are not looked at."""
        if self.operations and not any_fits(self.operations, call.names):
            return "operations"
        if self.scopes and not any_fits(self.scopes, call.scopes):
            return "scopes"
        if self.risk and call.risk not in self.risk:
            return "risk"
        if self.environments and not any_fits(self.environments, (call.environment or "",)):
            return "environments"
        return None

    def fits_user(self, user: str) -> bool:
        """Whether the rule is for this user."""
        return not self.users or any_fits(self.users, (user,))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which rule decides about a call, and why those before it do not."""

    level: Level
    rule: Rule | None
    """None: no rule fits, and the default counts."""
    number: int | None
    passed_over: tuple[tuple[int, str], ...]
    """Numbers of the rules before it (from 1), each with the condition that was not met."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in order, and what counts where none fits."""

    default: Level = Level.METADATA
    rules: tuple[Rule, ...] = ()
    source: str = "setting capture"

    @property
    def levels(self) -> frozenset[Level]:
        """The levels that calls may have."""
        return frozenset({self.default, *(rule.level for rule in self.rules)})

    def digest(self) -> str:
        """Tell one policy from another: the start of a SHA-256, 16 hexadecimal digits."""
        return sha256(repr((self.default, self.rules)).encode()).hexdigest()[:16]

    def candidates(self, call: Subject) -> tuple[Rule, ...]:
        """The rules that may decide about a call, depending on the user; the first that fits does.

        Without those after one that fits every user.
        """
        found: list[Rule] = []
        for rule in self.rules:
            if rule.unmet(call) is None:
                found.append(rule)
                if not rule.users:
                    break
        return tuple(found)

    def explain(self, call: Subject, user: str) -> Verdict:
        """Which rule decides, with the reason for each that does not."""
        passed: list[tuple[int, str]] = []
        for number, rule in enumerate(self.rules, 1):
            unmet = rule.unmet(call) or (None if rule.fits_user(user) else "users")
            if unmet is None:
                return Verdict(rule.level, rule, number, tuple(passed))
            passed.append((number, unmet))
        return Verdict(self.default, None, None, tuple(passed))

    @classmethod
    def load(cls, path: Path, default: Level = Level.METADATA) -> Policy:
        """Read a policy file.

        Args:
            path: The file.
            default: The setting ``capture``, which counts where the file does not say `level`.

        Raises:
            ConfigurationError: The file cannot be read, or says something that is not understood.
                A rule with a misspelt condition would let through what it was to hold back.
        """
        where = source_of(path)
        table = read_table(path, "privacy")
        refuse_unknown(table, frozenset({"level", "rules"}), f"{where}, [privacy]")
        level = _level(table["level"], f"{where}, [privacy]") if "level" in table else default
        rules = table.get("rules", [])
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise ConfigurationError(f"{where}: rules are tables; write each as [[privacy.rules]]")
        made = tuple(
            _rule(rule, f"{where}, [[privacy.rules]] number {number}")
            for number, rule in enumerate(rules, 1)
        )
        return cls(level, made, str(path))


def _rule(table: dict[str, Any], where: str) -> Rule:
    known = frozenset(spec.name for spec in fields(Rule))
    refuse_unknown(table, known, where)
    if "level" not in table:
        raise ConfigurationError(f"{where} has no level; allowed: {', '.join(Level)}")
    name = table.get("name", "")
    if not isinstance(name, str):
        raise ConfigurationError(f"{where}: name is not a text")
    lists = {
        condition: tuple(texts(table[condition], f"{where}, {condition}"))
        for condition in known - {"level", "name"}
        if condition in table
    }
    for risk in lists.get("risk", ()):
        if risk not in set(Risk):
            raise ConfigurationError(
                f"{where}: {shown(risk)} is no risk; allowed: {', '.join(Risk)}"
            )
    return Rule(level=_level(table["level"], where), name=name, **lists)


def _level(value: Any, where: str) -> Level:
    if isinstance(value, str) and value in set(Level):
        return Level(value)
    raise ConfigurationError(f"{where}: {shown(value)} is no level; allowed: {', '.join(Level)}")
