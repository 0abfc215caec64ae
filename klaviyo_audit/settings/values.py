"""The types of the settings' values: how text becomes one, with the words that say what it may be.

Times are seconds and sizes bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    StringConstraints,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

# ByteSize itself stops reading at the first thing it does not know: "10,000" would be 10 bytes.
# More digits overflow in it.
_SIZE = re.compile(r"\s*\d{1,19}(\.\d{1,9})?\s*([kmgtp]i?)?b?\s*", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?\s*", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SINK_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_CONTROL = re.compile(r"[\0-\x1f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Words:
    """What a setting may be, for messages and for the reference page."""

    text: str
    secret: bool = False


def _not_bool(value: Any) -> Any:
    # To pydantic True is the integer 1.
    if isinstance(value, bool):
        raise ValueError("a number is needed")  # noqa: TRY004  (pydantic reads ValueError only)
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str) and not _SIZE.fullmatch(value):
        raise ValueError("no size")
    return _not_bool(value)


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return _not_bool(value)
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ValueError("no duration")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _folder(value: Any) -> Any:
    if not isinstance(value, (str, Path)):
        return value
    if not str(value) or _CONTROL.search(str(value)):
        raise ValueError("no path")
    # Neither a shell nor TOML expands "~" here, and a folder of that name helps nobody.
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("no such user") from None


def _sink_names(value: Any) -> Any:
    names = value
    if isinstance(value, str):
        names = [name.strip() for name in value.split(",")] if value.strip() else []
    if not isinstance(names, (list, tuple)) or not all(
        isinstance(name, str) and SINK_NAME.fullmatch(name) for name in names
    ):
        raise ValueError("no sink names")
    if len(set(names)) < len(names):
        raise ValueError("a sink is named twice")
    return names


def _properties(value: Any) -> Any:
    # As text it is kept like any secret: shown nowhere, and part of no digest.
    if isinstance(value, Mapping):
        return orjson.dumps(dict(value)).decode()
    if isinstance(value, str) and _CONTROL.search(" ".join(value.split())):
        raise ValueError("no text")
    return value.strip() if isinstance(value, str) else value


def _encodable(value: SecretStr) -> SecretStr:
    # A variable that is not UTF-8 arrives with surrogates, and encoding them for use would fail
    # with an error that carries the secret.
    if _SURROGATE.search(value.get_secret_value()):
        raise ValueError("no text")
    return value


# The upper bounds are what is safe to encode in the journal (64 bits) and to wait for.
_MOST = 2**63 - 1
_CENTURY = 36525.0

_line = StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\p{Cc}\p{Zl}\p{Zp}]+$")
_name = StringConstraints(strip_whitespace=True, pattern=r"^[^\s\p{Cc}+]+$")
_size_words = "bytes, or a number with a unit: KB, MB, GB, TB, KiB, MiB, GiB or TiB"
_finite = Field(gt=0, allow_inf_nan=False)

Folder = Annotated[Path, BeforeValidator(_folder), Words("a path; `~` is the home folder")]
FileOrNone = Annotated[
    Annotated[Path, BeforeValidator(_folder)] | None,
    Words("a path; `~` is the home folder"),
]
Flag = Annotated[bool, Words("`true` or `false`")]
Region = Annotated[
    Annotated[str, StringConstraints(strip_whitespace=True, to_upper=True, pattern=r"^[A-Z]{2}$")]
    | None,
    Words("two letters of ISO 3166-1, for example `DE`"),
]
Sinks = Annotated[
    tuple[str, ...],
    BeforeValidator(_sink_names),
    Words("sink names (small letters, digits, `-`, `_`), separated by commas, each once"),
]
Text = Annotated[Annotated[str, _line] | None, Words("one line of text, not empty")]
Origin = Annotated[
    Annotated[str, _name] | None, Words("a name without spaces and `+`, best a URL less scheme")
]
Secret = Annotated[
    Annotated[SecretStr, Field(min_length=16), AfterValidator(_encodable)] | None,
    Words("a secret of 16 or more characters", secret=True),
]
MetricName = Annotated[
    Annotated[str, _line, Field(max_length=127)],
    Words("one line of text, not empty, shorter than 128 characters"),
]
Percent = Annotated[
    int, Field(ge=1, le=100), BeforeValidator(_not_bool), Words("a whole number from 1 to 100")
]
WebHost = Annotated[
    Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^https?://[^\s/?#@]+$")]
    | None,
    Words("`https://` or `http://` with a host and no path"),
]
Size = Annotated[
    ByteSize, Field(gt=0, le=_MOST), BeforeValidator(_size), Words(f"{_size_words}; above 0")
]
SizeOrOff = Annotated[
    ByteSize, Field(ge=0, le=_MOST), BeforeValidator(_size), Words(f"{_size_words}; 0 is off")
]
Topic = Annotated[
    Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9._-]{1,249}$")],
    Words("a topic's name: up to 249 letters, digits, `.`, `_` and `-`"),
]
Properties = Annotated[
    Annotated[SecretStr, Field(min_length=1), AfterValidator(_encodable)] | None,
    BeforeValidator(_properties),
    Words("a table, a JSON object or the path of a file (see sinks-kafka.md)", secret=True),
]
SizeOrNone = Annotated[Size | None, Words(f"{_size_words}; above 0")]
Duration = Annotated[
    float,
    _finite,
    Field(le=_CENTURY * 86400),
    BeforeValidator(_duration),
    Words("seconds, or a number with a unit: ms, s, m, h, d or w; above 0, at most 100 years"),
]
Count = Annotated[
    int, Field(gt=0, le=_MOST), BeforeValidator(_not_bool), Words("a whole number above 0")
]
DaysOrNone = Annotated[
    Annotated[float, _finite, Field(le=_CENTURY), BeforeValidator(_not_bool)] | None,
    Words("days, above 0, at most 100 years; parts of a day are allowed"),
]


def is_secret(spec: FieldInfo) -> bool:
    """Whether the values of a setting may be in no message, listing or digest."""
    return _words(spec).secret


def choices(spec: FieldInfo) -> tuple[str, ...]:
    """The words a setting may be, empty where it is not a choice between words."""
    return get_args(spec.annotation) if get_origin(spec.annotation) is Literal else ()


def allowed(spec: FieldInfo) -> str:
    """What a setting may be, in Markdown."""
    if words := [f"`{word}`" for word in choices(spec)]:
        return f"{', '.join(words[:-1])} or {words[-1]}"
    return _words(spec).text


def _words(spec: FieldInfo) -> Words:
    return next((item for item in spec.metadata if isinstance(item, Words)), Words(""))


def size_text(size: int) -> str:
    """A size in bytes as `Size` reads it, in the largest unit that needs no fraction."""
    for unit, factor in _SIZE_UNITS:
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def duration_text(seconds: float) -> str:
    """A time in seconds as `Duration` reads it, in the largest unit that needs no fraction."""
    whole = (u for u in _SECONDS if round(seconds * 1000) % round(_SECONDS[u] * 1000) == 0)
    unit = max(whole, key=lambda u: _SECONDS[u])
    return f"{seconds / _SECONDS[unit]:g}{unit}"
