"""All names that the installed SDK has for its operations, by API group."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.klaviyo.risks import key, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klaviyo_audit.klaviyo.risks import Operation

_SUFFIXES = ("_with_http_info", "_without_preload_content")


@dataclass(frozen=True, slots=True)
class SdkNames:
    """The names of groups, API classes and operations."""

    groups: Mapping[str, Mapping[str, Operation]]
    """Operations by group (``Profiles``) and name, aliases included, variants not."""
    classes: Mapping[str, str]
    """Groups by the name of their API class (``ProfilesApi``)."""

    def find(self, name: str, group: str | None = None) -> tuple[Operation, ...]:
        """The operations of this name, in any variant; in all groups when none is given."""
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix)
        groups = self.groups.values() if group is None else (self.groups.get(group, {}),)
        return tuple(of_group[name] for of_group in groups if name in of_group)


@cache
def sdk_names() -> SdkNames:
    """Read the names. Imports every API module, which takes seconds: not for audited programs.

    Raises:
        ImportError: No SDK is installed.
    """
    os.environ.setdefault("KLAVIYO_PYTHON_SDK_LAZY_IMPORTS", "1")  # before 20 models come along
    from klaviyo_api import KlaviyoAPI

    groups: dict[str, Mapping[str, Operation]] = {}
    classes: dict[str, str] = {}
    for group in catalog.api_groups(KlaviyoAPI):
        class_name = group.replace("_", "") + "Api"
        module = import_module(f"openapi_client.api.{group.lower()}_api")
        api_class = getattr(module, class_name, None)
        if isinstance(api_class, type):
            groups[group] = catalog.operations(api_class)
            classes[class_name] = group
    return SdkNames(groups, classes)


@cache
def names_of(group: str, method: str, path: str) -> tuple[str, ...]:
    """All names of an operation as rules know them, aliases and those of the newest SDK too.

    Imports the API module of its group if the program has not.

    Args:
        group: The operation's group, in any case.
        method: HTTP method.
        path: Path template.

    Returns:
        ``profiles.get_profile``, the same after ``klaviyo.``, and ``GET /api/profiles/{id}``.
    """
    identity = key(method, path)
    names: dict[str, None] = {}
    row = table().get(identity)
    if row is not None:
        names[f"{row.group.lower()}.{row.name}"] = None
    wanted = group.lower().replace("_", "")
    with contextlib.suppress(ImportError):  # a group that this SDK does not have
        module = import_module(f"openapi_client.api.{group.lower()}_api")
        for name, found in vars(module).items():
            if isinstance(found, type) and name.lower() == f"{wanted}api":
                names |= {
                    f"{group.lower()}.{alias}": None
                    for alias, one in catalog.operations(found).items()
                    if key(one.method, one.path) == identity
                }
    return (*names, *(f"klaviyo.{name}" for name in names), f"{method} {path}")
