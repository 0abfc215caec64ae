"""Bodies that the SDK's response models accept."""

from __future__ import annotations

import ast
import types
import typing
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union

import orjson

from klaviyo_audit.testing.routes import Operation, model_class

_ID = "{id}"
"""Stands for the resource's id in a generated body."""
_OTHER_ID = "related"
_DEPTH_OF_RESOURCE = 2
"""The document, then its ``data``: whose id is the resource's."""

_URL = "https://a.klaviyo.com/api"
_PLAIN: dict[Any, Any] = {
    bool: True,
    int: 1,
    float: 1.0,
    bytes: "",
    datetime: "2026-01-15T09:30:00+00:00",
    date: "2026-01-15",
    Any: "",
    object: "",
}
_LINKS = frozenset({"self", "related", "url"})


@dataclass(frozen=True, slots=True)
class Body:
    """A generated body, encoded but for the id of the resource it is about."""

    pieces: tuple[bytes, ...]

    def about(self, resource_id: str) -> bytes:
        """The body as one of a given resource."""
        return orjson.dumps(resource_id).join(self.pieces)


@cache
def body_of(operation: Operation) -> Body:
    """A minimal body that an operation's response model accepts; imports the model.

    Raises:
        TypeError: The model has a field of a kind that no example can be made for.
    """
    if operation.model is None:
        return Body((b"",))
    return Body(tuple(orjson.dumps(document_of(operation)).split(orjson.dumps(_ID))))


@cache
def document_of(operation: Operation) -> dict[str, Any]:
    """What `body_of` encodes. It is shared: copy what you change.

    Raises:
        LookupError: The operation's response has no body.
        TypeError: The model has a field of a kind that no example can be made for.
    """
    return _example_of_model(model_class(operation), ())


def _example_of_model(model: Any, outer: tuple[Any, ...]) -> dict[str, Any]:
    """The required members of a model, and its id."""
    outer = (*outer, model)
    members: dict[str, Any] = {}
    for attribute, spec in model.model_fields.items():
        name = spec.alias or attribute
        allowed = _allowed(model, attribute)
        if allowed and spec.is_required():
            is_list = typing.get_origin(_bare(spec.annotation)) is list
            members[name] = [allowed[0]] if is_list else allowed[0]
        elif name == "id" and not allowed and _bare(spec.annotation) is str:
            members[name] = _ID if len(outer) == _DEPTH_OF_RESOURCE else _OTHER_ID
        elif spec.is_required():
            members[name] = _example(spec.annotation, name, outer)
    return members


def _example(annotation: Any, name: str, outer: tuple[Any, ...]) -> Any:
    wanted = _bare(annotation)
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        return inner[0]
    if origin is dict or wanted is dict:
        return {}
    if origin is list or wanted is list:
        item = _bare(inner[0]) if inner else str
        # A model inside itself ends here.
        return [] if item in outer else [_example(item, name, outer)]
    if wanted is str:
        return _URL if name in _LINKS else name
    if wanted in _PLAIN:
        return _PLAIN[wanted]
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return next(iter(wanted)).value
    if hasattr(wanted, "model_fields"):
        return _example_of_model(wanted, outer)
    raise TypeError(
        f"No example can be made for {annotation!r}, field {name} of {outer[-1].__name__}"
    )


def _bare(annotation: Any) -> Any:
    """A type without its ``Annotated`` and ``Optional``; the first one of a union."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _bare(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        choices = [each for each in typing.get_args(annotation) if each is not types.NoneType]
        return _bare(choices[0])
    return annotation


def _allowed(model: Any, attribute: str) -> tuple[Any, ...]:
    """The only values a field takes, which the SDK keeps in a validator, not in the type."""
    validate = getattr(model, f"{attribute}_validate_enum", None)
    if validate is None:
        return ()
    nothing = object()
    for attempt in ([nothing], nothing):
        try:
            validate(attempt)
        except (TypeError, ValueError) as refused:
            stated = str(refused)
            if "must be one of" in stated:
                listed = ast.literal_eval(stated[stated.index("(") :])
                return listed if isinstance(listed, tuple) else (listed,)
    return ()
