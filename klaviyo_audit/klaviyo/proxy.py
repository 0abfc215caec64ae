"""Transparent proxies of a `KlaviyoAPI`, of its `ApiClient`, or of one API group."""

from __future__ import annotations

import copy
import functools
import types
from typing import TYPE_CHECKING, Any, NoReturn, cast

import wrapt

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.klaviyo.operation import audited_operation
from klaviyo_audit.klaviyo.twins import audit_api_client, is_audited, original, refuse_pickle

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from klaviyo_audit.recorder import Recorder

_VARIANT_SUFFIXES = ("_with_http_info", "_without_preload_content")
_API_PACKAGE = "openapi_client.api."
_MAX_CLOSURE_DEPTH = 8


class AuditedClient(wrapt.BaseObjectProxy[Any]):
    """A `KlaviyoAPI` whose operations are audited. The wrapped client itself is not changed.

    API groups are built once and kept (the SDK builds a new one at each access, 85 to 285 us);
    they are built anew when the client's ``api_client`` is exchanged.
    """

    def __init__(self, wrapped: Any, recorder: Recorder) -> None:
        super().__init__(wrapped)
        self._self_recorder = recorder
        self._self_api_client = audit_api_client(wrapped.api_client, recorder)
        self._self_groups: dict[str, Any] = {}

    @property
    def api_client(self) -> Any:
        """The client's `ApiClient`, audited: API classes made with it are audited too."""
        current = self.__wrapped__.api_client
        if self._self_api_client._audit_original is not current:  # noqa: SLF001
            self._self_api_client = audit_api_client(current, self._self_recorder)
            self._self_groups = {}
        return self._self_api_client

    @api_client.setter
    def api_client(self, value: Any) -> None:
        self.__wrapped__.api_client = original(value)

    def __getattr__(self, name: str) -> Any:
        wrapped = self.__wrapped__
        if self._self_api_client._audit_original is wrapped.api_client:  # noqa: SLF001
            group = self._self_groups.get(name)
            if group is not None:
                return group
        prepared = getattr(type(wrapped), name, None)
        if isinstance(prepared, property) and name in catalog.api_groups(type(wrapped)):
            # The SDK's own getter builds the group, with this proxy for ``self``: retry logic
            # comes from the wrapped client, the `ApiClient` is the audited one.
            api_client = self.api_client
            group = cast("Callable[[Any], Any]", prepared.fget)(self)
            _audit_operations(group, self._self_recorder)
            if self._self_api_client is api_client:
                self._self_groups[name] = group
            return group
        member = _of_the_program(cast("Hashable", type(wrapped)), name)
        if member is None or name in vars(wrapped):
            value = getattr(wrapped, name)
        else:
            # Bound to this proxy: in it ``self.Profiles`` has to be the audited group.
            value = member.__get__(self, type(wrapped))
        return audit_group(value, self._self_recorder) if is_group(value) else value

    # What a subclass may define, bound to this proxy like its other methods.

    def __getitem__(self, key: Any) -> Any:
        return type(self.__wrapped__).__getitem__(self, key)

    def __enter__(self) -> Any:
        return type(self.__wrapped__).__enter__(self)

    def __exit__(self, *error: object) -> Any:
        return type(self.__wrapped__).__exit__(self, *error)

    async def __aenter__(self) -> Any:
        return await type(self.__wrapped__).__aenter__(self)

    async def __aexit__(self, *error: object) -> Any:
        return await type(self.__wrapped__).__aexit__(self, *error)

    def __copy__(self) -> AuditedClient:
        return AuditedClient(copy.copy(self.__wrapped__), self._self_recorder)

    def __deepcopy__(self, memo: dict[int, Any]) -> AuditedClient:
        return AuditedClient(copy.deepcopy(self.__wrapped__, memo), self._self_recorder)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        refuse_pickle(self.__wrapped__)


@functools.lru_cache(maxsize=1024)
def _of_the_program(client_class: Any, name: str) -> Any:
    """What a subclass of ``KlaviyoAPI`` defines under a name, if it can be bound; else None."""
    for base in client_class.__mro__:
        if name in vars(base):
            member = vars(base)[name]
            is_own = base is not object and not base.__module__.startswith("klaviyo_api")
            # Those of C look at the memory of the instance, and a proxy has another.
            of_c = isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType)
            return member if is_own and hasattr(type(member), "__get__") and not of_c else None
    return None


def is_client(value: Any) -> bool:
    """Whether a value is a client of Klaviyo's SDK."""
    return any(
        base.__name__ == "KlaviyoAPI" and base.__module__.startswith("klaviyo_api")
        for base in type(value).__mro__
    )


def is_api_client(value: Any) -> bool:
    """Whether a value is an `ApiClient` of Klaviyo's SDK."""
    return (
        any(
            base.__name__ == "ApiClient" and base.__module__ == "openapi_client.api_client"
            for base in type(value).__mro__
        )
        and catalog.is_klaviyo_sdk()
    )


def is_group(value: Any) -> bool:
    """Whether a value is an API group (``ProfilesApi``) of Klaviyo's SDK."""
    return hasattr(value, "api_client") and any(
        base.__module__.startswith(_API_PACKAGE) for base in type(value).__mro__
    )


def audit_group(group: Any, recorder: Recorder) -> Any:
    """An audited twin of an API group; the group itself stays as it is.

    Args:
        group: A ``ProfilesApi(...)``, or what ``client.Profiles`` gives.
        recorder: Where the entries go.

    Raises:
        ConfigurationError: The group's operations are wrapped in a way this version does not
            know, so they could not be led to the audited HTTP client.
    """
    if is_audited(group.api_client):
        return group
    twin = copy.copy(group)
    twin.api_client = audit_api_client(group.api_client, recorder)
    for name, value in vars(group).items():
        if isinstance(value, types.FunctionType):
            setattr(twin, name, _rebound(value, group, twin))
    _audit_operations(twin, recorder)
    return twin


def _rebound(function: types.FunctionType, old: Any, new: Any) -> types.FunctionType:
    """A copy of a closure in which methods of one object are methods of another.

    The SDK wraps every method of a group in its retry logic and keeps the method in a closure.
    """
    rebound, found = _rebind(function, old, new, _MAX_CLOSURE_DEPTH)
    if not found:
        raise ConfigurationError(
            f"cannot audit this {type(old).__name__}: its {function.__name__} is wrapped in a way "
            "klaviyo-audit does not know. Audit the client it comes from instead: "
            "audit(client)."
        )
    return cast("types.FunctionType", rebound)


def _rebind(value: Any, old: Any, new: Any, depth: int) -> tuple[Any, bool]:
    if isinstance(value, types.MethodType) and value.__self__ is old:
        return types.MethodType(value.__func__, new), True
    if not isinstance(value, types.FunctionType) or not value.__closure__ or depth <= 0:
        return value, False
    contents = [_rebind(cell.cell_contents, old, new, depth - 1) for cell in value.__closure__]
    if not any(found for _, found in contents):
        return value, False
    copied = types.FunctionType(
        value.__code__,
        value.__globals__,
        value.__name__,
        value.__defaults__,
        tuple(types.CellType(content) for content, _ in contents),
    )
    copied.__kwdefaults__ = value.__kwdefaults__
    copied.__dict__.update(value.__dict__)
    return copied, True


def _audit_operations(group: Any, recorder: Recorder) -> None:
    """Put an audited function in front of every operation of a group, in the instance.

    That is where the SDK itself puts its retry layer, so the class stays what it was.
    """
    own = vars(group)

    def keep_audited() -> None:
        if not is_audited(group.api_client):  # the program has put another one there
            group.api_client = audit_api_client(group.api_client, recorder)

    for name in catalog.operations(type(group)):
        for called_as in (name, *(name + suffix for suffix in _VARIANT_SUFFIXES)):
            function = getattr(type(group), called_as, None)
            if function is None:
                continue
            method = types.MethodType(function, group)
            run = own.get(called_as, method)
            own[called_as] = audited_operation(recorder, method, run, called_as, keep_audited)
