"""The guard: the rules in order, and what is asked of a call besides."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from klaviyo_audit.entry import Risk
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.guard.presets import PRESETS
from klaviyo_audit.guard.rules import Decision, Facts, Rule, limit_of, rule_of
from klaviyo_audit.policyfile import refuse_unknown, shown, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from klaviyo_audit.guard.radius import BlastRadius

Mode = Literal["enforce", "observe"]
BY_ENVIRONMENT: Final = "environment"
"""In place of a preset's name: the preset that is called like the setting ``environment``."""

_MEMBERS: Final = frozenset(
    {
        "preset",
        "allow",
        "deny",
        "rules",
        "default",
        "unknown",
        "mode",
        "require_actor",
        "require_reason",
        "limit",
        "confirm",
        "estimate",
        "estimate_timeout",
        "break_glass",
    }
)
_RISING: Final = tuple(Risk)
_MOST_SECONDS: Final = 60.0


class Guard:
    """Decides which calls may go out.

    The rules are asked in this order, and the first that fits decides: ``deny``, ``rules``,
    ``allow``, those of the preset. Where none fits, ``default`` does.

    Args:
        preset: ``"development"``, ``"staging"``, ``"production"``, or ``"environment"``: the one
            that is called like the setting ``environment``. None: no rules but one's own.
        allow: What may go out: scopes (with a colon, ``profiles:read``, ``*:read``) or operations
            (``events.create_event``), as globs. Scopes are taken together: an operation may need
            several of them.
        deny: What may not, likewise; any of an operation's scopes is enough.
        rules: Rules with more conditions, as mappings; see docs/guard.md.
        default: ``"deny"`` or ``"allow"``: about calls of known operations that no rule is for.
        unknown: The same about operations this version does not know.
        mode: ``"enforce"``, or ``"observe"``: calls go out and the trail says what would have been
            denied.
        require_actor: Risk from which a call needs somebody named who acts.
        require_reason: Risk from which it needs a reason.
        limit: How many people or objects a call may touch before `confirm` or a reason is asked
            for; a rule may have its own. None: any number.
        confirm: Called above the limit with the `BlastRadius`; what it returns decides.
        estimate: Whether Klaviyo is asked for numbers that are not in the request (members of a
            list, recipients of a campaign), with the call's own key.
        estimate_timeout: Seconds that may take.
        break_glass: Whether ``acting_as(break_glass=)`` passes a denial.
        source: Where the rules are from, for messages.

    Raises:
        ConfigurationError: Something in it is not understood.

    Example:
        >>> guard = Guard("production", allow=["profiles:read", "events.create_event"])
        >>> Auditor(guard=guard)  # doctest: +SKIP
    """

    __slots__ = (
        "break_glass",
        "confirm",
        "default",
        "estimate",
        "estimate_timeout",
        "limit",
        "mode",
        "preset",
        "remedy",
        "require_actor",
        "require_reason",
        "rules",
        "source",
        "unknown",
    )

    def __init__(
        self,
        preset: str | None = None,
        *,
        allow: str | Sequence[str] = (),
        deny: str | Sequence[str] = (),
        rules: Sequence[Rule | Mapping[str, Any]] = (),
        default: str = "deny",
        unknown: str = "deny",
        mode: str = "enforce",
        require_actor: str | None = None,
        require_reason: str | None = None,
        limit: int | None = None,
        confirm: Callable[[BlastRadius], bool] | None = None,
        estimate: bool = False,
        estimate_timeout: float = 5.0,
        break_glass: bool = True,
        source: str = "code",
    ) -> None:
        self.source = source
        # What lets a denied call go out, where that is not to add a rule.
        self.remedy: str | None = None
        where = f"guard (from {source})"
        self.preset = preset
        if preset is not None and preset != BY_ENVIRONMENT:
            _preset(preset, where)
        if not isinstance(rules, list | tuple):
            raise ConfigurationError(f"{where}: rules are a list of tables")
        self.rules: tuple[Rule, ...] = (
            *_listed(deny, Decision.DENY, where),
            *(rule_of(_table(one, where), f"{where}, rule {n}") for n, one in enumerate(rules, 1)),
            *_listed(allow, Decision.ALLOW, where),
        )
        self.default = _decision(default, "default", where)
        self.unknown = _decision(unknown, "unknown", where)
        self.mode: Mode = _one_of(mode, ("enforce", "observe"), "mode", where)
        self.require_actor = _risk(require_actor, "require_actor", where)
        self.require_reason = _risk(require_reason, "require_reason", where)
        self.limit = None if limit is None else limit_of(limit, where)
        if confirm is not None and not callable(confirm):
            raise ConfigurationError(f"{where}: confirm is {shown(confirm)}; give a function")
        self.confirm = confirm
        self.estimate = _flag(estimate, "estimate", where)
        self.break_glass = _flag(break_glass, "break_glass", where)
        self.estimate_timeout = _seconds(estimate_timeout, where)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any], source: str) -> Self:
        """A guard from a mapping of its arguments, such as the table ``[guard]`` of a policy file.

        Raises:
            ConfigurationError: Something in it is not understood.
        """
        refuse_unknown(table, _MEMBERS, f"guard (from {source})")
        given = dict(table)
        return cls(given.pop("preset", None), source=source, **given)

    def rules_in(self, environment: str | None) -> tuple[Rule, ...]:
        """All rules in their order, those of the preset at the end.

        Raises:
            ConfigurationError: There is no preset for this environment.
        """
        if self.preset is None:
            return self.rules
        if self.preset != BY_ENVIRONMENT:
            return (*self.rules, *PRESETS[self.preset])
        if environment is None or environment not in PRESETS:
            raise ConfigurationError(
                f"guard (from {self.source}) is 'environment', and the environment is "
                f"{shown(environment) if environment else 'not set'}; there are presets for "
                f"{', '.join(PRESETS)}: set environment to one of them, or name the preset"
            )
        return (*self.rules, *PRESETS[environment])

    def describe(self) -> dict[str, str]:
        """Which rules these are, for a journal's first line."""
        facts = (
            self.rules, self.default, self.unknown, self.require_actor, self.require_reason,
            self.limit, self.estimate, self.break_glass, self.confirm is not None,
        )  # fmt: skip
        digest = sha256(repr((self.preset, facts)).encode()).hexdigest()[:16]
        return {"preset": self.preset or "none", "mode": self.mode, "rules": digest}

    def __repr__(self) -> str:
        return f"<Guard preset={self.preset} rules={len(self.rules)} mode={self.mode}>"


class Verdict:
    """What is decided about a call, and by which rule."""

    __slots__ = ("allows", "limit", "rule", "told")

    def __init__(self, *, allows: bool, rule: Rule | None, told: str, limit: int | None) -> None:
        self.allows = allows
        self.rule = rule
        """None: none fits."""
        self.told = told
        """The rule as messages and entries name it."""
        self.limit = limit
        """How many people or objects may be touched."""


class Ruling:
    """The rules that may decide about one operation in one environment."""

    __slots__ = ("_candidates", "_otherwise", "fixed")

    def __init__(self, guard: Guard, facts: Facts, environment: str | None) -> None:
        self._candidates: list[tuple[Rule, Verdict]] = []
        decision = guard.default if facts.known else guard.unknown
        told = f"default of the guard ({decision})"
        if not facts.known:
            told = f"default of the guard for operations this version does not know ({decision})"
        self._otherwise = Verdict(
            allows=decision is Decision.ALLOW, rule=None, told=told, limit=guard.limit
        )
        for number, rule in enumerate(guard.rules_in(environment), 1):
            if rule.unmet(facts, environment) is None:
                self._candidates.append((rule, _verdict(guard, rule, number)))
                if not rule.asks_who:
                    break
        self.fixed: Verdict | None = None
        """The verdict, where it is the same whoever calls."""
        if not self._candidates:
            self.fixed = self._otherwise
        elif not self._candidates[0][0].asks_who:
            self.fixed = self._candidates[0][1]

    def verdict(self, user: str, keys: tuple[str, ...]) -> Verdict:
        """What is decided about a call by this user with this key."""
        if self.fixed is not None:
            return self.fixed
        return next(
            (verdict for rule, verdict in self._candidates if rule.fits(user, keys)),
            self._otherwise,
        )


def rule_name(number: int, rule: Rule) -> str:
    """A rule as messages and entries name it; numbers are from 1, in the order of asking."""
    return f"rule {number}" + (f" '{rule.name}'" if rule.name else "")


def at_least(risk: str, floor: Risk | None) -> bool:
    """Whether a risk is at or above another; nothing is at or above None."""
    return floor is not None and _RISING.index(Risk(risk)) >= _RISING.index(floor)


def _verdict(guard: Guard, rule: Rule, number: int) -> Verdict:
    return Verdict(
        allows=rule.decision is Decision.ALLOW,
        rule=rule,
        told=rule_name(number, rule),
        limit=guard.limit if rule.limit is None else rule.limit,
    )


def _listed(items: Any, decision: Decision, where: str) -> list[Rule]:
    if not items and not isinstance(items, str):
        return []
    names = tuple(texts(items, f"{where}, {decision}"))
    scopes = tuple(name for name in names if ":" in name)
    operations = tuple(name for name in names if ":" not in name)
    found = []
    if operations:
        found.append(Rule(decision=decision, name=f"{decision} operations", operations=operations))
    if scopes:
        found.append(Rule(decision=decision, name=f"{decision} scopes", scopes=scopes))
    return found


def _table(one: Any, where: str) -> Rule | Mapping[str, Any]:
    if isinstance(one, Rule | dict):
        return one
    raise ConfigurationError(f"{where}: a rule is {shown(one)}; give a table")


def _preset(name: Any, where: str) -> None:
    if name not in PRESETS:
        raise ConfigurationError(
            f"{where}: {shown(name)} is no preset; allowed: {', '.join(PRESETS)}, {BY_ENVIRONMENT}"
        )


def _one_of(value: Any, words: tuple[str, ...], name: str, where: str) -> Any:
    if value in words:
        return value
    raise ConfigurationError(f"{where}: {name} is {shown(value)}; allowed: {', '.join(words)}")


def _decision(value: Any, name: str, where: str) -> Decision:
    return Decision(_one_of(value, tuple(Decision), name, where))


def _risk(value: Any, name: str, where: str) -> Risk | None:
    if value is None or value == "off":
        return None
    return Risk(_one_of(value, tuple(Risk), name, where))


def _flag(value: Any, name: str, where: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{where}: {name} is {shown(value)}; give true or false")


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
        if math.isfinite(seconds) and 0 < seconds <= _MOST_SECONDS:
            return seconds
    raise ConfigurationError(
        f"{where}: estimate_timeout is {shown(value)}; give seconds above 0, at most 60"
    )
