"""Filters and pages of the collections that a `FakeKlaviyo` remembers."""

from __future__ import annotations

import base64
import operator
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from klaviyo_audit.testing.exchange import Refused, error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klaviyo_audit.testing.exchange import Exchange
    from klaviyo_audit.testing.store import Resource

BASE_URL = "https://a.klaviyo.com"
_CONDITION = re.compile(
    r'(?:equals\((?P<one>[\w.]+),(?P<value>"(?:[^"\\]|\\.)*")\)'
    r"|any\((?P<any>[\w.]+),(?P<values>\[[^\]]*\])\)"
    r"|(?P<order>greater-or-equal|greater-than|less-or-equal|less-than)"
    r"\((?P<time>datetime|timestamp),(?P<than>[\w.:+-]+)\))(?:,|$)"
)
_ORDERS = {
    "greater-or-equal": operator.ge,
    "greater-than": operator.gt,
    "less-or-equal": operator.le,
    "less-than": operator.lt,
}


@dataclass(frozen=True, slots=True)
class PageSize:
    """How many items a page has."""

    usual: int
    most: int


def filtered(exchange: Exchange, resources: list[Resource]) -> list[Resource]:
    """The resources that the query's filter lets through.

    ``equals`` and ``any`` are known, the comparisons of an event's ``datetime`` and ``timestamp``,
    and several of them with a comma between. Any other filter lets all through.

    Raises:
        Refused: The fake is strict and does not know the filter.
    """
    wanted = exchange.query.get("filter", "")
    place = 0
    while place < len(wanted):
        condition = _CONDITION.match(wanted, place)
        if condition is None:
            if exchange.strict:
                known = "equals and any, and by comparing an event's time"
                raise Refused(error(400, f"FakeKlaviyo filters by {known} only", "filter"))
            break
        place = condition.end()
        if condition["order"]:
            compare, than = _ORDERS[condition["order"]], _seconds(condition["than"])
            resources = [r for r in resources if compare(r.attributes.get("timestamp", 0), than)]
            continue
        name = condition["one"] or condition["any"]
        values = orjson.loads(condition["values"] or f"[{condition['value']}]")
        resources = [each for each in resources if _member(each, name) in values]
    return resources


def _seconds(when: str) -> float:
    try:
        return float(when) if when.isdecimal() else datetime.fromisoformat(when).timestamp()
    except ValueError:
        raise Refused(error(400, "The filter compares with no time", "filter")) from None


def _member(resource: Resource, name: str) -> Any:
    if name == "id":
        return resource.id
    return resource.attributes.get(name, resource.sought_by.get(name))


def page(
    exchange: Exchange, path: str, numbered: Iterable[tuple[int, Any]], size: PageSize
) -> tuple[list[Any], dict[str, str | None]]:
    """One page of a collection, as the query asks for it.

    Args:
        exchange: Its query may say ``page[size]`` and ``page[cursor]``.
        path: The collection's path, for the links.
        numbered: The items in rising order of their numbers.
        size: How many items a page has.

    Returns:
        The items, and the JSON:API links ``self``, ``next`` and ``prev``.

    Raises:
        Refused: The cursor is none of ours, or the size is no number.
    """
    query = exchange.query
    asked = query.get("page[size]", str(size.usual))
    if not asked.isdecimal():
        raise Refused(error(400, "page[size] is not a number", "page[size]"))
    after = _number(query["page[cursor]"]) if query.get("page[cursor]") else 0
    following = [each for each in numbered if each[0] > after]
    shown = following[: max(1, min(int(asked), size.most))]
    url = f"{BASE_URL}{path}/"
    links: dict[str, str | None] = {"self": url, "next": None, "prev": None}
    if len(shown) < len(following):
        links["next"] = f"{url}?page%5Bcursor%5D={quote(_cursor(shown[-1][0]))}"
    return [item for _, item in shown], links


def _cursor(number: int) -> str:
    return base64.urlsafe_b64encode(f"after {number}".encode()).decode()


def _number(cursor: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(cursor).removeprefix(b"after "))
    except ValueError:
        raise Refused(
            error(400, "page[cursor] is not one that was given", "page[cursor]")
        ) from None
