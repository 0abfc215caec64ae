"""Who acts in a web request: the framework's user, or headers of a proxy that is trusted."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from klaviyo_audit.context import ACTOR, ActorContext
from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX_SOCKET: Final = "unix"
"""In `trusted_proxies`: whoever connects over the server's Unix socket."""

_IPV4_PREFIX: Final = 24
_IPV6_PREFIX: Final = 48
_MAPPED_PREFIX: Final = 96
_MAX_HOPS: Final = 32


@dataclass(frozen=True, slots=True)
class Request:
    """What a web framework knows of one request, asked for only when a call is recorded.

    Args:
        user: Gives the authenticated user's id; None when there is none.
        header: Gives all values of a header, by its name in lower case.
        peer: Address of the other end of the connection; empty for a Unix socket.
        session: Gives the session's id, of which only a fingerprint is kept.
    """

    user: Callable[[], str | None]
    header: Callable[[str], list[str]]
    peer: str = ""
    session: Callable[[], str | None] = lambda: None


class ActorRules:
    """How the actor of a request is found.

    Headers are believed only if the connection comes from one of `trusted_proxies`: anybody else
    can send any header.

    Args:
        user_header: Header in which the proxy names the user, e.g. ``X-Forwarded-User``. It is
            asked where the framework knows no user.
        on_behalf_of_header: Header that says for whom somebody acts.
        reason_header: Header that says why.
        ticket_header: Header with the ticket it is about; recorded in ``metadata.ticket``.
        trusted_proxies: Addresses and networks (``10.0.0.0/8``) of proxies; ``unix`` for the
            server's Unix socket. Also needed to read ``X-Forwarded-For``.
        ip: What is kept of the client's address: ``truncated`` its /24 or /48 network, ``full``,
            ``none``.
        anonymous: Who acts where nobody is known.

    Raises:
        ConfigurationError: A network is none, or headers are configured without trusted proxies.
    """

    __slots__ = ("_headers", "_ip", "_networks", "_unix", "_user_header", "anonymous")

    def __init__(
        self,
        *,
        user_header: str | None = None,
        on_behalf_of_header: str | None = None,
        reason_header: str | None = None,
        ticket_header: str | None = None,
        trusted_proxies: str | Collection[str] = (),
        ip: Literal["truncated", "full", "none"] = "truncated",
        anonymous: str = "anonymous",
    ) -> None:
        named = {
            "on_behalf_of": on_behalf_of_header,
            "reason": reason_header,
            "ticket": ticket_header,
        }
        self._user_header = _header_name("user_header", user_header)
        lowered = {what: _header_name(f"{what}_header", name) for what, name in named.items()}
        self._headers = {what: name for what, name in lowered.items() if name is not None}
        if not isinstance(trusted_proxies, str | list | tuple | set | frozenset):
            raise ConfigurationError(
                f"trusted_proxies is a {type(trusted_proxies).__name__}; give a list of addresses "
                "and networks, e.g. ['10.0.0.0/8']"
            )
        proxies = [trusted_proxies] if isinstance(trusted_proxies, str) else list(trusted_proxies)
        self._unix = UNIX_SOCKET in proxies
        self._networks = [_network(text) for text in proxies if text != UNIX_SOCKET]
        if (self._user_header or self._headers) and not proxies:
            raise ConfigurationError(
                "trusted_proxies: headers can name the actor only if a proxy sets them; name its "
                "address or network, e.g. trusted_proxies=['10.0.0.0/8'] (or 'unix' for the "
                "server's Unix socket)"
            )
        if ip not in ("truncated", "full", "none"):
            raise ConfigurationError(f"ip: {ip!r} is not allowed; truncated, full or none is")
        if not isinstance(anonymous, str) or not anonymous:
            raise ConfigurationError("anonymous: a user id that is not empty is needed")
        self._ip = ip
        self.anonymous = anonymous

    def actor(self, request: Request) -> dict[str, Any]:
        """Who acts, as the arguments of `klaviyo_audit.acting_as`.

        ``user_id`` is missing where nobody is known, and ``actor_error`` names the type of what
        the framework raised when it was asked.
        """
        trusted = self._trusts(request.peer)
        facts: dict[str, Any] = {}
        user = _asked(request.user, facts)
        if not user and trusted and self._user_header and not facts:
            user = _name(request.header(self._user_header))
        if user:
            facts["user_id"] = str(user)
        if trusted:
            for what, name in self._headers.items():
                read = _name if what == "on_behalf_of" else _only
                facts[what] = read(request.header(name))
        facts["ip"] = self._address(request, trusted=trusted)
        session = _asked(request.session, facts)
        if session:
            # Whoever has a session's id can act as its user.
            facts["session"] = hashlib.sha256(session.encode()).hexdigest()[:12]
        return {what: value for what, value in facts.items() if value is not None}

    def _trusts(self, peer: str) -> bool:
        if not peer:
            return self._unix
        address = _address(peer)
        return address is not None and self._is_proxy(address)

    def _is_proxy(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _address(self, request: Request, *, trusted: bool) -> str | None:
        """The client's: behind trusted proxies the last one in X-Forwarded-For that is none."""
        if self._ip == "none":
            return None
        address = _address(request.peer)
        if trusted:
            hops = ",".join(request.header("x-forwarded-for")).rsplit(",", _MAX_HOPS)
            for hop in reversed(hops[-_MAX_HOPS:]):
                found = _address(hop.strip())
                if found is None:
                    break  # what stands before something unreadable is anybody's invention
                address = found
                if not self._is_proxy(found):
                    break
        if address is None:
            return None
        if self._ip == "full":
            return str(address)
        prefix = _IPV4_PREFIX if address.version == 4 else _IPV6_PREFIX  # noqa: PLR2004
        return str(ipaddress.ip_network((address, prefix), strict=False))


class RequestActor(ActorContext):
    """The actor of a web request, found when the first call is recorded in it.

    Asking a framework for its user can read a database or make a page uncacheable, and may only
    be possible later than the middleware runs; a request without a call to Klaviyo must not notice
    the audit at all.
    """

    __slots__ = ("_request", "_rules")

    def __init__(self, rules: ActorRules, request: Request) -> None:
        # The other attributes stay unset until one is asked for: see `__getattr__`.
        self._rules = rules
        self._request = request
        self.outer = ACTOR.get()
        self.rendered = None

    def __getattr__(self, name: str) -> Any:
        """Find the actor, at the first question about it."""
        if name not in ActorContext.__slots__:
            raise AttributeError(name)
        try:
            facts = self._rules.actor(self._request)
        except Exception as error:  # the call has to go on
            facts = {"actor_error": type(error).__name__}
        user_id = facts.pop("user_id", None)
        super().__init__(
            user_id or self._rules.anonymous,
            facts.pop("reason", None),
            facts.pop("on_behalf_of", None),
            facts.pop("ip", None),
            facts,
            self.outer,
            named=user_id is not None,
        )
        return getattr(self, name)


class RequestScope:
    """A scope in which a request's actor acts; it can be entered again and again.

    Args:
        actor: The actor.
    """

    __slots__ = ("_actor",)

    def __init__(self, actor: RequestActor) -> None:
        self._actor = actor

    def __enter__(self) -> None:
        ACTOR.set(self._actor)

    def __exit__(self, *_: object) -> None:
        ACTOR.set(self._actor.outer)


def _asked(question: Callable[[], str | None], facts: dict[str, Any]) -> str | None:
    """What a framework knows; where it fails to tell, the type of the error is a fact."""
    try:
        return question()
    except Exception as error:  # the framework's or the program's own: the call has to go on
        facts["actor_error"] = type(error).__name__
        return None


def _only(values: list[str]) -> str | None:
    """The value of a header that is there once: of two, one may be a client's."""
    return (values[0].strip() or None) if len(values) == 1 else None


def _name(values: list[str]) -> str | None:
    """The same of a header with a name in it: WSGI servers join two by a comma."""
    value = _only(values)
    return None if value is None or "," in value else value


def _address(text: str) -> Address | None:
    """An address, also as ``[::1]:8080`` or ``10.0.0.1:8080``; None for anything else.

    Without its zone: that names the server's interface, and in a header it can be any text.
    """
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(text: str) -> Network:
    try:
        if not isinstance(text, str):
            raise ValueError(f"it is of type {type(text).__name__}")  # noqa: TRY004, TRY301
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"trusted_proxies: {text!r} is no address and no network ({error}); allowed: "
            "'10.0.0.5', '10.0.0.0/8', 'fd00::/8' or 'unix'"
        ) from None
    # Addresses are compared in their own form: ::ffff:10.0.0.0/104 is 10.0.0.0/8.
    first = network.network_address
    mapped = first.ipv4_mapped if isinstance(first, ipaddress.IPv6Address) else None
    if mapped is None or network.prefixlen < _MAPPED_PREFIX:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - _MAPPED_PREFIX))


def _header_name(argument: str, name: str | None) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise ConfigurationError(f"{argument}: {name!r} is no name of a header")
    return None if name is None else name.lower()
