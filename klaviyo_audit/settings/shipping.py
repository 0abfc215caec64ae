"""The settings of shipping: how entries get from the journal to the sinks, whichever they are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ByteSize, Field

from klaviyo_audit.entry import Phase, Result, Risk
from klaviyo_audit.settings.values import SINK_NAME, Count, Duration, Size, Words
from klaviyo_audit.sinks.filters import Filter

_CHOICES = {"results": Result, "risks": Risk, "phases": Phase}


def _filters(value: Any) -> Any:
    if isinstance(value, str):
        # A variable has no tables.
        value = orjson.loads(value)
    if not isinstance(value, dict):
        raise ValueError("no table")  # noqa: TRY004  (pydantic reads ValueError only)
    return {_sink_name(name): _filter(members) for name, members in value.items()}


def _sink_name(name: Any) -> str:
    if not isinstance(name, str) or not SINK_NAME.fullmatch(name):
        raise ValueError("no sink name")
    return name


def _filter(members: Any) -> Filter:
    if isinstance(members, Filter):
        return members
    if not isinstance(members, dict) or not members:
        raise ValueError("no filter")
    given: dict[str, Any] = {name: _words(name, words) for name, words in members.items()}
    return Filter(**given)


def _words(name: str, words: Any) -> frozenset[str] | tuple[str, ...]:
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, (list, tuple)) or not words:
        raise ValueError("no list")
    if name == "actions":
        if not all(isinstance(word, str) and word and word.isprintable() for word in words):
            raise ValueError("no pattern")
        return tuple(words)
    if name not in _CHOICES:
        raise ValueError("no such part of a filter")
    # A misspelt one would silently keep entries back.
    return frozenset(_CHOICES[name](word).value for word in words)


SinkFilters = Annotated[
    dict[str, Filter],
    BeforeValidator(_filters),
    Words(
        "a table (in a variable: JSON) of sink names, each with lists of words under `results`, "
        "`risks`, `phases`, or patterns under `actions`"
    ),
]


class ShippingSettings(BaseModel):
    """The part of the settings that is about shipping."""

    ship: Literal["background", "off"] = Field(
        "background",
        description="Where entries are delivered to sinks: `background` in threads of the "
        "program; `off` leaves it to `klaviyo-audit ship`.",
    )
    ship_batch_entries: Count = Field(
        500, description="How many entries a sink gets at once, at most."
    )
    ship_batch_bytes: Size = Field(
        ByteSize(2**20), description="How many bytes of entries a sink gets at once, at most."
    )
    ship_batch_age: Duration = Field(
        1.0, description="How long an entry waits for others to be delivered with it."
    )
    ship_deadline: Duration = Field(
        30.0, description="How long one attempt to deliver may take before it is given up."
    )
    ship_retry_most: Duration = Field(
        300.0,
        description="The longest pause between two attempts, unless the sink asks for more.",
    )
    ship_exit_wait: Duration = Field(
        2.0, description="How long the end of the program waits for sinks."
    )
    sink_filters: SinkFilters = Field(
        default_factory=dict,
        description="What each sink gets: entries that fit all of its lists. Lines about the trail "
        "itself (gaps) are left out by `phases` only.",
    )
    queue_entries: Count = Field(
        10_000,
        description="Where there can be no journal: how many entries wait in memory for the sinks.",
    )
    queue_overflow: Literal["drop_newest", "drop_oldest", "block"] = Field(
        "drop_newest",
        description="What happens when that queue is full: the new entry or the oldest one is "
        "lost, or the call waits for `queue_block` and the new one is lost then.",
    )
    queue_block: Duration = Field(
        0.1, description="How long a call waits at most for room in that queue."
    )
