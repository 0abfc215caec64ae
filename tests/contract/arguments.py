"""Valid arguments for any operation of the SDK, made from its type annotations."""

from __future__ import annotations

import ast
import datetime as dt
import inspect
import re
import types
import typing
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "ID_1"
"""What every free string is: an id that names nothing."""

_PLAIN: dict[Any, Any] = {
    Any: TEXT,
    object: TEXT,
    str: TEXT,
    bytes: TEXT.encode(),
    bool: True,
    int: 1,
    float: 1.0,
    dt.datetime: dt.datetime(2026, 11, 23, 19, tzinfo=dt.UTC),
    dt.date: dt.date(2026, 11, 23),
}
_ALLOWED = re.compile(r"must be one of .*?(\(.*\))")


def arguments_for(func: Callable[..., Any]) -> dict[str, Any]:
    """Keyword arguments that an operation accepts: the required ones, as small as can be.

    Bodies are instances of their models, new at each call.

    Args:
        func: A function of a class in ``openapi_client.api``, a method bound to an object of one,
            or a wrapper with ``__wrapped__``; plain, ``_with_http_info`` or
            ``_without_preload_content``. What `KlaviyoAPI` puts on a group
            (``client.Profiles.get_profile``) hides its signature: pass
            ``type(client.Profiles).get_profile``.

    Raises:
        TypeError: A required parameter has a type that nothing can be made for.
    """
    parameters = inspect.signature(inspect.unwrap(getattr(func, "__func__", func))).parameters
    return {
        name: _example(parameter.annotation)
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name != "self"
    }


def _example(wanted: Any) -> Any:
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Annotated:
        return _example(inner[0])
    if origin in (Union, types.UnionType):
        return _example_of_any(inner)
    if origin is Literal:
        return inner[0]
    if origin is list:
        return [_example(inner[0])]
    if origin is dict:
        return {}
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return _instance(wanted)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return next(iter(wanted))
    if wanted in _PLAIN:
        return _PLAIN[wanted]
    raise TypeError(f"no example can be made for {wanted!r}: teach tests/contract/arguments.py")


def _example_of_any(choices: tuple[Any, ...]) -> Any:
    # A file is bytes or a name, and a name would be opened.
    usable = [choice for choice in choices if choice is not types.NoneType]
    for choice in sorted(usable, key=lambda choice: bytes not in _parts(choice)):
        try:
            return _example(choice)
        except (TypeError, ValidationError):
            continue
    raise TypeError(f"no example can be made for any of {choices!r}")


def _parts(wanted: Any) -> tuple[Any, ...]:
    return (wanted, *typing.get_args(wanted))


def _instance(model: type[BaseModel]) -> BaseModel:
    members = {
        spec.alias or name: _example(spec.annotation)
        for name, spec in model.model_fields.items()
        if spec.is_required()
    }
    try:
        return model.model_validate(members)
    except ValidationError as error:
        # Some members allow a few values only, which just their validator knows, and says.
        for problem in error.errors():
            stated = _ALLOWED.search(problem["msg"])
            if stated is None:
                raise
            allowed = ast.literal_eval(stated[1])
            value = allowed[0] if isinstance(allowed, tuple) else allowed
            place = str(problem["loc"][0])
            members[place] = [value] if isinstance(members[place], list) else value
        return model.model_validate(members)
