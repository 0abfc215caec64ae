"""What the guard has to do about one operation, worked out once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from klaviyo_audit.guard.policy import Ruling, at_least
from klaviyo_audit.guard.rules import Facts
from klaviyo_audit.klaviyo.blast import count_of
from klaviyo_audit.klaviyo.names import names_of
from klaviyo_audit.klaviyo.readings import plain
from klaviyo_audit.klaviyo.risks import by_rule, key, table

if TYPE_CHECKING:
    from klaviyo_audit.calls import Target
    from klaviyo_audit.guard.policy import Guard, Verdict

_MAX_VERDICTS: Final = 1024
_NO_NAMES: Final = ("",)


class Plan:
    """The rules for one operation, and what else is asked of its calls."""

    __slots__ = (
        "_verdicts",
        "count",
        "facts",
        "free",
        "matches",
        "method",
        "needs_actor",
        "needs_reason",
        "plain",
        "ruling",
        "target",
    )

    def __init__(self, guard: Guard, target: Target, environment: str | None) -> None:
        self.target = target
        self.facts = facts_of(target)
        assert target.identity is not None
        self.method, path = target.identity
        self.matches = plain(path).match
        """Matches the URLs that can only mean this operation."""
        self.ruling = Ruling(guard, self.facts, environment)
        self._verdicts: dict[tuple[str, str | None], Verdict] = {}
        self.needs_actor = at_least(self.facts.risk, guard.require_actor)
        self.needs_reason = at_least(self.facts.risk, guard.require_reason)
        self.count = count_of(self.method, path, deletes="unlink" not in self.facts.effects)
        self.plain = self.count is None and not self.needs_actor and not self.needs_reason
        """Nothing is asked but whether a rule allows it, if the URL can only mean this."""
        fixed = self.ruling.fixed
        self.free = self.plain and fixed is not None and fixed.allows
        """Nor is that, since one does."""

    def verdict(self, user: str, key: str | None) -> Verdict:
        """What the rules say to a user's call with a key (the entry's ``key``)."""
        who = (user, key)
        verdict = self._verdicts.get(who)
        if verdict is None:
            verdict = self.ruling.verdict(user, names_of_key(key))
            if len(self._verdicts) >= _MAX_VERDICTS:  # users come and go
                self._verdicts.clear()
            self._verdicts[who] = verdict
        return verdict

    def how_to_allow(self) -> str:
        """What to add to the guard so that its calls go out."""
        facts = self.facts
        if not facts.known:
            return (
                'add a rule {decision = "allow", unknown = true, operations = '
                f'["{facts.names[-1]}"]}} (this version does not know the operation)'
            )
        by_name = f'allow = ["{facts.names[0]}"]'
        scopes = ", ".join(f'"{scope}"' for scope in sorted(facts.scopes))
        return f"add {by_name}, or allow = [{scopes}]" if scopes else f"add {by_name}"


def facts_of(target: Target) -> Facts:
    """What rules look at of a call of the SDK."""
    assert target.identity is not None, "only calls of the SDK are guarded"
    method, path = target.identity
    group = target.action.split(".")[1]
    row = table().get(key(method, path))
    operation = row or by_rule(method, path, group=group.title())
    return Facts(
        names_of(group, method, path),
        method,
        target.subject.scopes or frozenset(operation.scopes),
        target.subject.risk or operation.risk.value,
        operation.personal_data,
        frozenset(operation.effects),
        known=row is not None,
    )


def names_of_key(fragment: str | None) -> tuple[str, ...]:
    """Label and fingerprint in the entry's ``key``, as rules see them."""
    if fragment is None:
        return _NO_NAMES
    facts = orjson.loads(fragment)
    return tuple(facts[name] for name in ("label", "fingerprint") if name in facts)
