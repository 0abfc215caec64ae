"""Exchanging one API key for another, step by step, with the trail as the evidence."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from klaviyo_audit.entry import Phase, Result
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.follow import follow
from klaviyo_audit.klaviyo import apikeys
from klaviyo_audit.klaviyo.account import KLAVIYO, KeyState, check_key
from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.privacy import CREDENTIALS
from klaviyo_audit.security.keyuse import key_uses, shown, when
from klaviyo_audit.security.rotation_state import (
    RotationImpossible,
    RotationState,
    RotationStopped,
)
from klaviyo_audit.security.trail import members_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.klaviyo.account import KeyCheck

ACTION: Final = "klaviyo_audit.key_rotation"
"""``action`` of the entries."""
_ALL_SCOPES: Final = "*"
_TELL_EVERY: Final = 60.0
_CONFIRM_TRIES: Final = 5


class StillUsed(RotationStopped):
    """The old key was used until the end of the time that was given."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be exchanged, and how patiently."""

    old: str = field(repr=False)
    new: str = field(repr=False)
    old_name: str
    """Where the old key came from, for people: the environment variable."""
    new_name: str
    admin: str | None = field(default=None, repr=False)
    """A key with ``credentials:read`` and ``credentials:write``."""
    idle: float = 3600.0
    """Seconds without a use of the old key after which it counts as idle."""
    wait: float | None = None
    """Seconds to wait for that at most."""
    poll: float = 2.0
    """Seconds between looks at the trail."""
    host: str = KLAVIYO


class Rotation:
    """One rotation, which may be interrupted anywhere and begun again.

    What was done is kept in ``rotations/<old>-<new>.json`` in the journal's folder (fingerprints
    and times, no keys), and each step is an entry of the trail.

    Args:
        auditor: Records the steps.
        plan: What to do.
        tell: Gets sentences about how it goes.
    """

    def __init__(self, auditor: Auditor, plan: Plan, tell: Callable[[str], None]) -> None:
        for key in (plan.old, plan.new, plan.admin):
            if key:
                CREDENTIALS.add(key)
        self._auditor = auditor
        self._plan = plan
        self._tell = tell
        self.old = fingerprint(plan.old)
        self.new = fingerprint(plan.new)
        self._directory = auditor.journal
        self._state = RotationState(auditor.journal, self.old, self.new)
        self._done: dict[str, Any] = {}
        self._services: dict[str, datetime] = {}
        self._last: datetime | None = None

    def run(self) -> None:
        """Go through all steps that are not done yet.

        Raises:
            RotationImpossible: It cannot be done with these keys.
            RotationStopped: A step cannot be done yet; the message says what to do.
            OSError: The state or the journal cannot be read or written.
        """
        if self.old == self.new:
            raise RotationImpossible(
                f"{self._plan.new_name} holds the same key as {self._plan.old_name}: make a new "
                "key in Klaviyo, and put it there"
            )
        with self._state.only_one():
            self._done = self._state.read()
            if self._done:
                steps = ", ".join(f"{step} at {at}" for step, at in self._done.items())
                self._tell(f"going on with a rotation that was begun: {steps}")
            self._check()
            if self._is_dead(check_key(self._plan.old, host=self._plan.host)):
                self._tell("Klaviyo does not take the old key any more (401)")
            else:
                self._wait_until_idle()
                self._disable()
            self._finish()

    def _check(self) -> None:
        """The new key is good, of the same account, and may do what the old one does."""
        plan = self._plan
        new = check_key(plan.new, host=plan.host)
        if new.state not in {KeyState.LIVE, KeyState.LIVE_WITHOUT_SCOPE}:
            told = new.why or f"status {new.status}"
            self._refuse("new_key_refused", f"the new key is not live: {new.state.value} ({told})")
        if "checked" in self._done:
            return
        old = check_key(plan.old, host=plan.host)
        facts = {"account": self._same_account(old, new), "scopes": self._same_scopes()}
        self._step("checked", facts, f"the new key is good; account: {facts['account']}; "
                   f"scopes: {facts['scopes']}")  # fmt: skip

    def _same_account(self, old: KeyCheck, new: KeyCheck) -> str:
        sites = [
            old.account or _site(self._plan.old),
            new.account or _site(self._plan.new),
        ]
        if None in sites:
            return "not known (needs accounts:read, or keys of the newer form)"
        if sites[0] != sites[1]:
            self._refuse(
                "other_account",
                f"the new key is of another account ({sites[1]}) than the old one ({sites[0]})",
            )
        return f"same ({sites[0]})"

    def _same_scopes(self, *, again: bool = False) -> str:
        plan = self._plan
        if plan.admin is None:
            return "not known (needs a key with credentials:read)"
        old = apikeys.find_api_key(plan.admin, plan.old, host=plan.host)
        new = apikeys.find_api_key(plan.admin, plan.new, host=plan.host)
        if old is None or new is None:
            return "not known (the keys cannot be told apart in the account's list)"
        if _ALL_SCOPES in new.scopes:
            return "all"
        missing = old.scopes - new.scopes - {_ALL_SCOPES}
        use = key_uses(members_of(self._directory)).get(self.old)
        used = set(use.scopes) if use is not None else set()
        lacking = sorted(used - new.scopes)
        if lacking:
            self._refuse(
                "scopes_missing",
                f"the new key lacks scopes that the old one is used for: {', '.join(lacking)}. A "
                "key's scopes cannot be changed: make another one",
            )
        if missing:
            if not again:
                told = ", ".join(sorted(missing))
                self._tell(f"the new key lacks {told}, which nobody has used")
            return f"fewer: without {', '.join(sorted(missing))} (unused)"
        return "the same or more"

    def _wait_until_idle(self) -> None:
        plan = self._plan
        begun = datetime.now(UTC)
        deadline = None if plan.wait is None else time.monotonic() + plan.wait
        told = (0.0, "")

        def idle() -> bool:
            nonlocal told
            if self._idle_for(begun) >= plan.idle:
                return False
            text = self._still_used()
            now = time.monotonic()
            if text != told[1] or now - told[0] > _TELL_EVERY:
                self._tell(text)
                told = (now, text)
            if deadline is not None and now >= deadline:
                self._record("waiting", {"services": self._times()}, Result.FAILURE)
                raise StillUsed(f"{text}. Exchange it there, then run the same command again")
            time.sleep(plan.poll)
            return True

        for members in self._history():
            self._take(members)
        while True:
            for item in follow(self._directory / JOURNAL_NAME, offset=0, idle=idle):
                if not isinstance(item, str) and item.members is not None:
                    self._take(item.members)
            # Once more from the beginning: a file that was rotated just now is not missed.
            for members in members_of(self._directory):
                self._take(members)
            if self._idle_for(begun) >= plan.idle:
                break
        if "idle" not in self._done:
            seconds = int(self._idle_for(begun))
            facts = {"last_use": shown(self._last), "seconds": seconds, "services": self._times()}
            self._step("idle", facts, f"the old key is idle: last used {shown(self._last)}")

    def _history(self) -> Iterator[Mapping[str, Any]]:
        """Entries of rotated files; those of the live one are followed."""
        with contextlib.suppress(FileNotFoundError):
            yield from members_of(self._directory)

    def _take(self, members: Mapping[str, Any]) -> None:
        key = members.get("key")
        if not isinstance(key, dict) or key.get("fingerprint") != self.old:
            return
        # An intent too: its call may be running.
        if members.get("phase") not in {Phase.INTENT, Phase.OUTCOME}:
            return
        at = when(members["timestamp"])
        if at is None:
            return
        service = str((members.get("origin") or {}).get("service") or "?")
        self._last = at if self._last is None else max(self._last, at)
        self._services[service] = max(at, self._services.get(service, at))

    def _idle_for(self, begun: datetime) -> float:
        """Seconds since the last use; since the waiting began, when the trail knows of none."""
        return (datetime.now(UTC) - (self._last or begun)).total_seconds()

    def _still_used(self) -> str:
        within = datetime.now(UTC) - timedelta(seconds=self._plan.idle)
        recent = {name: at for name, at in self._services.items() if at > within}
        if not recent:
            return (
                f"the old key was not seen in use yet; it counts as idle {self._plan.idle:g} s on"
            )
        users = ", ".join(f"{name} (last {shown(at)})" for name, at in sorted(recent.items()))
        return f"the old key is still used by {users}"

    def _times(self) -> dict[str, str]:
        return {name: shown(at) for name, at in sorted(self._services.items())}

    def _disable(self) -> None:
        plan = self._plan
        found = None
        if plan.admin is not None:
            found = apikeys.find_api_key(plan.admin, plan.old, host=plan.host)
        if plan.admin is None or found is None:
            why = "no key with credentials:write was given"
            if plan.admin is not None:
                why = "the old key cannot be told apart in the account's list"
            self._stop(
                "disable_by_hand",
                f"the old key is idle and can go, but {why}. In Klaviyo: Settings > API keys, the "
                f"key that ends in {plan.old[-4:]}: disable it (delete it some days later). Then "
                "run the same command again; it will see that",
            )
        # Once more: the first look may have been without an admin key, or days ago.
        self._same_scopes(again=True)
        # Before it, so that a crash in between is not a change nobody knows of.
        if not self._record("disabling", {"key_id": found.id, "name": found.name}, None):
            raise RotationStopped(
                f"nothing was disabled, since that cannot be recorded in {self._directory}: make "
                "room or mend the folder, then run the same command again"
            )
        apikeys.disable_api_key(plan.admin, found.id, host=plan.host)
        for _ in range(_CONFIRM_TRIES):
            if self._is_dead(check_key(plan.old, host=plan.host)):
                self._step("disabled", {"key_id": found.id}, "the old key is disabled")
                return
            time.sleep(min(plan.poll, 1.0))
        self._stop("still_live", "Klaviyo has disabled the old key, and still takes it")

    @staticmethod
    def _is_dead(check: KeyCheck) -> bool:
        return check.state is KeyState.DEAD

    def _finish(self) -> None:
        if "done" not in self._done:
            self._step("done", {}, "done: delete the old key in Klaviyo when nothing misses it")
        else:
            self._tell("this rotation is done")

    def _step(self, step: str, facts: Mapping[str, Any], text: str) -> None:
        self._record(step, facts, Result.SUCCESS)
        self._done[step] = shown(datetime.now(UTC))
        self._state.write(self._done)
        self._tell(text)

    def _stop(self, step: str, text: str) -> NoReturn:
        self._record(step, {}, Result.FAILURE)
        raise RotationStopped(text)

    def _refuse(self, step: str, text: str) -> NoReturn:
        self._record(step, {}, Result.FAILURE)
        raise RotationImpossible(text)

    def _record(self, step: str, facts: Mapping[str, Any], result: Result | None) -> bool:
        """Record a step; whether that was possible."""
        entry_id = self._auditor.record(
            ACTION,
            resource=f"key:{self.old}",
            result=result,
            metadata={"step": step, "old": self.old, "new": self.new, **facts},
        )
        return entry_id is not None


def _site(key: str) -> str | None:
    """The account that a key of the newer form, ``pk_<site>_<digits>``, says."""
    parts = key.split("_")
    return parts[1] if len(parts) == len(("pk", "site", "digits")) else None
