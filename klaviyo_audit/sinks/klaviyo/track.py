"""The sink's way to Klaviyo's track API: key, share of the rate limits, refusals."""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.klaviyo.transport import (
    PROGRAM_KEY,
    Reply,
    Transport,
    client_with,
    program_key,
)
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.klaviyo.budget import BULK, SINGLE, Budget
from klaviyo_audit.sinks.klaviyo.events import REVISION

if TYPE_CHECKING:
    from klaviyo_audit.settings import Settings

SINGLE_PATH: Final = "/api/events"
BULK_PATH: Final = "/api/event-bulk-create-jobs"
ACCEPTED: Final = 202
NOT_PROCESSED: Final = (401, 403, 429)
"""Refused before Klaviyo looked at the body."""
REFUSED: Final = (400, 409, 413, 422)
"""Klaviyo has read the request and did nothing: something in it is not acceptable."""

_TIMEOUT: Final = (5.0, 10.0)
"""Seconds to connect, and seconds without a byte of the answer."""
_TURN_SECONDS: Final = 12.0
"""No further request begins this long after a turn did; with the time-outs it stays below the
shipper's deadline of 30 s."""
_GONE: Final = 410
_THROTTLED: Final = 429

_log = logging.getLogger("klaviyo_audit")


class TrackApi:
    """Sends events, as the budget has it.

    Args:
        settings: ``klaviyo_key``, ``klaviyo_share`` and ``klaviyo_host`` count.
        client: A ``KlaviyoAPI`` of the program's to send with, instead of one of our own.

    Raises:
        ConfigurationError: There is no key.
    """

    def __init__(self, settings: Settings, client: Any) -> None:
        self._settings = settings
        self._given = client
        if client is None:
            self._key()
        self._budgets = {
            SINGLE_PATH: Budget(SINGLE, settings.klaviyo_share),
            BULK_PATH: Budget(BULK, settings.klaviyo_share),
        }
        self._transport: Transport | None = None
        self._closing = threading.Event()
        self._turn_ends = 0.0
        self._told = False

    def begin_turn(self) -> None:
        """Some requests follow, which together must not take too long."""
        self._turn_ends = monotonic() + _TURN_SECONDS

    def ready(self, path: str) -> None:
        """Wait until a request may go out.

        Raises:
            Retry: That takes longer than this turn, or the sink is being closed.
        """
        pause = self._budgets[path].wait()
        if monotonic() + pause > self._turn_ends:
            limit = "the sink's share of the rate limit is used up, " if pause else ""
            raise Retry(pause, why=f"{limit}the rest follows in the next turn")
        if self._closing.is_set() or (pause and self._closing.wait(pause)):
            raise Retry(why="the sink is being closed")

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        """Send a request.

        Raises:
            NotSent: There was no connection.
            NoReply: It is not known what became of it.
        """
        budget = self._budgets[path]
        budget.spend()
        reply = self.transport().send("POST", path, body=body, timeout=_TIMEOUT)
        budget.learn(reply.headers)
        if reply.status == _THROTTLED:
            budget.block(reply.retry_after() or 1.0)
        return reply

    def stop_if_hopeless(self, reply: Reply) -> None:
        """Do nothing, unless only a person can help.

        Raises:
            ConfigurationError: The key, the metric, the profile or the API revision is refused.
        """
        pointers = " ".join(pointer for pointer, _ in reply.errors())
        if reply.status in NOT_PROCESSED and reply.status != _THROTTLED and reply.errors():
            raise ConfigurationError(
                f"Klaviyo refuses the key of the sink klaviyo ({reply.why()}). It was given by "
                f"{self.whose_key()}; make a private key with the scope events:write and give it "
                "as klaviyo_key (KLAVIYO_AUDIT_KLAVIYO_KEY). Nothing is lost: delivery goes on "
                "from where it stopped."
            )
        if reply.status == _GONE:
            raise ConfigurationError(
                f"Klaviyo no longer serves the API revision that is asked for ({reply.why()}): "
                "update klaviyo-audit and klaviyo-api"
            )
        if reply.status in REFUSED:
            for part in ("metric", "profile"):
                if f"/attributes/{part}" in pointers:
                    raise ConfigurationError(
                        f"Klaviyo refuses the {part} of the sink klaviyo ({reply.why()}); change "
                        f"the setting klaviyo_{part}"
                    )

    def transport(self) -> Transport:
        """The connection, made at first use since that imports the SDK."""
        if self._transport is None:
            client = self._given
            if client is None:
                client = client_with(self._key(), self._settings.klaviyo_host)
                self._tell_of_sharing()
            self._transport = Transport(client, least_revision=REVISION)
        return self._transport

    def whose_key(self) -> str:
        """Where the key comes from, for messages."""
        if self._given is not None:
            return "the client that the program made"
        if self._settings.klaviyo_key is None:
            return f"environment variable {PROGRAM_KEY}"
        return self._settings.sources["klaviyo_key"]

    def renew(self) -> None:
        """In a forked child: leave the open connections to the parent."""
        if self._transport is not None and self._given is not None:
            self._transport.forget_connections()
        self._transport = None
        self._closing = threading.Event()

    def close(self) -> None:
        """Begin no further request."""
        self._closing.set()

    def _key(self) -> str:
        own = self._settings.klaviyo_key
        key = program_key() if own is None else own.get_secret_value()
        if key is None:
            raise ConfigurationError(
                "the sink klaviyo has no key: set klaviyo_key (KLAVIYO_AUDIT_KLAVIYO_KEY) to a "
                "private key with the scope events:write"
            )
        return key

    def _tell_of_sharing(self) -> None:
        if self._settings.klaviyo_key is None and not self._told:
            self._told = True
            _log.warning(
                "the sink klaviyo shares the program's key (%s): its calls count on that key and "
                "stop when it is taken away. Give it one of its own, with the scope events:write, "
                "as KLAVIYO_AUDIT_KLAVIYO_KEY.",
                PROGRAM_KEY,
            )
