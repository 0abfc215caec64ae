"""What a request changes in people's consent: the facts that the consent ledger is made of."""

from __future__ import annotations

from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.klaviyo.subjects import MAX_SUBJECTS, PLACES, attributes, identifiers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klaviyo_audit.privacy.gate import Gate

CHANGES: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("POST", "/api/profile-subscription-bulk-create-jobs"): "subscribe",
        ("POST", "/api/profile-subscription-bulk-delete-jobs"): "unsubscribe",
        ("POST", "/api/profile-suppression-bulk-create-jobs"): "suppress",
        ("POST", "/api/profile-suppression-bulk-delete-jobs"): "unsuppress",
        ("POST", "/client/subscriptions"): "subscribe",
        ("POST", "/api/back-in-stock-subscriptions"): "subscribe_back_in_stock",
        ("POST", "/client/back-in-stock-subscriptions"): "subscribe_back_in_stock",
    }
)
"""What the operations that change consent do, by HTTP method and path template."""

_CHANNELS: Final = ("email", "sms", "whatsapp", "push")
_PURPOSES: Final = ("marketing", "transactional", "open_tracking", "conversational")
_BACK_IN_STOCK_CHANNELS: Final = frozenset({"EMAIL", "PUSH", "SMS", "WHATSAPP"})
_MAX_SOURCE: Final = 200
_MAX_GROUPS: Final = 50


def consent_of(identity: tuple[str, str], body: Any, gate: Gate) -> dict[str, Any] | None:
    """The entry's ``consent``.

    Args:
        identity: HTTP method and path template of the operation.
        body: The request's body as JSON types.
        gate: What texts and ids pass.

    Returns:
        ``change`` (a value of `CHANGES`), ``profiles`` (how many the request names), ``list`` or
        ``segment`` (id), ``source`` (the custom source), ``historical`` and ``channels`` (as
        ``email.marketing``); ``per_subject`` in its place where they are not the same for all.
        None for an operation that changes nothing in consent.
    """
    change = CHANGES.get(identity)
    if change is None:
        return None
    facts: dict[str, Any] = {"change": change}
    data = body.get("data") if isinstance(body, dict) else None
    own = data.get("attributes") if isinstance(data, dict) else None
    own = own if isinstance(own, dict) else {}
    facts |= _targets(data, gate)
    source = own.get("custom_source")
    if isinstance(source, str) and source:
        facts["source"] = gate.text(source, _MAX_SOURCE)
    if isinstance(own.get("historical_import"), bool):
        facts["historical"] = own["historical_import"]
    profiles = list(attributes(PLACES[identity], body))
    facts["profiles"] = len(profiles)
    listed = own.get("channels")
    if isinstance(listed, list):
        facts["channels"] = [
            one.lower() for one in islice(listed, 10) if one in _BACK_IN_STOCK_CHANNELS
        ]
        return facts
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for profile in profiles:
        groups.setdefault(_channels(profile.get("subscriptions")), []).append(profile)
    if len(groups) == 1:
        channels = next(iter(groups))
        if channels:
            facts["channels"] = list(channels)
    elif groups:
        facts["per_subject"] = [
            {"channels": list(channels), "subjects": _names(members, gate)}
            for channels, members in islice(groups.items(), _MAX_GROUPS)
        ]
    return facts


def _targets(data: Any, gate: Gate) -> dict[str, Any]:
    related = data.get("relationships") if isinstance(data, dict) else None
    found: dict[str, Any] = {}
    for name in ("list", "segment"):
        target = related.get(name) if isinstance(related, dict) else None
        target = target.get("data") if isinstance(target, dict) else None
        value = target.get("id") if isinstance(target, dict) else None
        if isinstance(value, str):
            found[name] = value if gate.is_identifier(value) else gate.text(value, 100)
    return found


def _channels(subscriptions: Any) -> tuple[str, ...]:
    if not isinstance(subscriptions, dict):
        return ()
    found = []
    for channel in _CHANNELS:
        purposes = subscriptions.get(channel)
        if isinstance(purposes, dict):
            named = [purpose for purpose in _PURPOSES if isinstance(purposes.get(purpose), dict)]
            found += [f"{channel}.{purpose}" for purpose in named] or [channel]
    return tuple(found)


def _names(profiles: list[dict[str, Any]], gate: Gate) -> list[str]:
    found = (
        gate.pseudonym(kind, value)
        for profile in islice(profiles, MAX_SUBJECTS)
        for kind, value in identifiers(profile)
    )
    return [name for name in found if name is not None]
