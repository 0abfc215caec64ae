"""Messages on their way to Kafka, and what became of each."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.base import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping

    from confluent_kafka import Message

    Content = Callable[[], tuple[bytes, tuple[tuple[str, bytes], ...]]]

_POLL_SECONDS: Final = 0.1

# librdkafka prints fatal errors to standard error at any log_level. No level of logging is higher
# than this logger's, and it has no parent: what matters in its lines comes as errors, too.
_silent: Final = logging.Logger("librdkafka", logging.CRITICAL + 1)  # noqa: LOG001

_NOT_US: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001  (confluent-kafka's names of librdkafka's own)
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SECURITY_DISABLED,
    }
)
_NO_CONNECTION: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001  (likewise)
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._SSL,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
    }
)
_NO_TOPIC: Final = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001  (likewise)
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
    }
)
_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
    }
)


class Outbox:
    """An idempotent producer, and what it is to send, has sent and was told about it.

    Args:
        config: Properties of librdkafka.
        topic: Where all messages go.
        key: The key of all messages.
    """

    def __init__(self, config: Mapping[str, Any], topic: str, key: bytes) -> None:
        self._config = dict(config)
        self._topic = topic
        self._key = key
        self._contents: dict[Hashable, Content] = {}
        self._on_way: set[Hashable] = set()
        self._offsets: dict[Hashable, tuple[int, int]] = {}
        self._failed: dict[Hashable, KafkaError] = {}
        self._alone: set[Hashable] = set()
        self._refused: dict[Hashable, str] = {}
        self._said: KafkaError | None = None
        self._made = 0
        self._producer = self._new()
        _outboxes.add(self)

    def _new(self) -> Producer:
        self._made += 1
        try:
            return Producer({**self._config, "error_cb": self._on_error}, logger=_silent)
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"kafka_config was refused by librdkafka: {_masked(error, self._config)}"
            ) from None

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Forget about messages of other batches; they are on their way and not needed here."""
        self._offsets = {key: at for key, at in self._offsets.items() if key in keys}
        self._refused = {key: why for key, why in self._refused.items() if key in keys}
        self._alone &= set(keys)
        self._failed.clear()
        self._contents.clear()

    def post(self, key: Hashable, content: Content) -> None:
        """Send a message, unless it has been or is refused."""
        if key in self._offsets or key in self._refused:
            return
        self._contents[key] = content
        if key not in self._on_way:
            self._produce(key)

    def _produce(self, key: Hashable) -> None:
        value, headers = self._contents[key]()
        made = self._made
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    self._key,
                    headers=list(headers),
                    on_delivery=lambda error, message: self._on_report(made, key, error, message),
                )
            except BufferError:  # librdkafka's queue is full: let some of it go
                self._poll()
                if self._said is not None and not self._on_way:
                    raise Retry(why=_words(self._said)) from None
            except KafkaException as error:
                if _is_fatal(error.args[0]):
                    self._start_anew(error.args[0])
                self._failed[key] = error.args[0]
                return
            else:
                self._on_way.add(key)
                return

    def wait(self, deadline: float) -> dict[Hashable, str]:
        """Wait for the reports on everything posted.

        Args:
            deadline: When to give up, on the monotonic clock.

        Returns:
            The messages that will never be taken, with the reason.

        Raises:
            Retry: Reports are missing, or messages have to be sent again.
            ConfigurationError: It makes no sense to send them again.
        """
        waited_for = self._contents.keys()
        while self._on_way & waited_for and monotonic() < deadline:
            self._poll()
        self._settle(deadline)
        if self._on_way & waited_for:
            missing = len(self._on_way & waited_for)
            raise Retry(why=f"{missing} messages are still on their way to Kafka{self._doubts()}")
        return self._refused

    def _doubts(self) -> str:
        if self._said is None:
            return ""
        check = "bootstrap.servers, security.protocol and ssl.* in kafka_config"
        hint = f": check {check}" if self._said.code() in _NO_CONNECTION else ""
        return f"; {_masked(self._said, self._config)} ({self._said.name()}){hint}"

    def _settle(self, deadline: float) -> None:
        """Decide about messages that have failed."""
        failed, self._failed = self._failed, {}
        again: KafkaError | None = None
        for key, error in failed.items():
            code = error.code()
            if code in _NOT_US or code in _NO_TOPIC:
                raise ConfigurationError(self._hopeless(error))
            if code not in _REFUSED:
                again = error
            elif key in self._alone or len(self._contents) == 1:
                self._refused[key] = f"Kafka refused the message: {_words(error)}"
            else:
                # Brokers refuse a whole set of messages: which one it is shows one by one.
                self._alone.add(key)
                self._produce(key)
                self._await(key, deadline)
        if self._failed:
            self._settle(deadline)
        if again is not None:
            if _is_fatal(again):
                self._start_anew(again)
            raise Retry(why=_words(again))

    def _await(self, key: Hashable, deadline: float) -> None:
        while key in self._on_way and monotonic() < deadline:
            self._poll()

    def _poll(self) -> None:
        """Have reports and errors come in."""
        try:
            self._producer.poll(_POLL_SECONDS)
        except KafkaException as error:
            # confluent-kafka raises a fatal error here, and does not give it to the callback.
            self._start_anew(error.args[0])
        self._raise_if_hopeless()

    def _start_anew(self, fatal: KafkaError) -> NoReturn:
        """After a fatal error a producer is good for nothing, and has given up on its messages."""
        try:
            self._producer.flush(_POLL_SECONDS)  # what was delivered before it is on record then
        except KafkaException as error:
            fatal = error.args[0]  # the reason, where `produce` has only said that there is one
        self._on_way.clear()
        self._said = None
        self._producer = self._new()
        if fatal.code() in _NOT_US:
            raise ConfigurationError(self._hopeless(fatal))
        raise Retry(why=f"the Kafka producer failed for good and was replaced: {_words(fatal)}")

    def _on_report(
        self, made: int, key: Hashable, error: KafkaError | None, message: Message
    ) -> None:
        if made != self._made:
            return  # from a producer that was given up
        self._on_way.discard(key)
        if error is None:
            self._offsets[key] = (message.partition() or 0, message.offset() or 0)
            self._said = None
        elif key in self._contents:
            self._failed[key] = error

    def _on_error(self, error: KafkaError) -> None:
        # The first reason is the telling one: "all brokers are down" follows from it.
        if self._said is None or error.code() in _NOT_US:
            self._said = error

    def _raise_if_hopeless(self) -> None:
        if self._said is not None and self._said.code() in _NOT_US:
            error, self._said = self._said, None
            raise ConfigurationError(self._hopeless(error))

    def _hopeless(self, error: KafkaError) -> str:
        if error.code() in _NO_TOPIC:
            return (
                f"Kafka has no topic {self._topic!r} (setting kafka_topic): create it; the "
                "entries stay in the journal"
            )
        return (
            f"Kafka does not let us in: {_masked(error, self._config)}: check kafka_config "
            "(security.protocol, sasl.*, ssl.*) and the rights on the topic "
            f"{self._topic!r}; the entries stay in the journal"
        )

    def offsets(self) -> dict[str, object]:
        """The last message of the batch by partition, for the receipt."""
        last: dict[int, int] = {}
        for partition, offset in self._offsets.values():
            last[partition] = max(offset, last.get(partition, -1))
        return {
            "topic": self._topic,
            "offsets": {str(partition): last[partition] for partition in sorted(last)},
        }

    def clear(self) -> None:
        """Forget the batch: all of it is answered for."""
        self._contents.clear()
        self._offsets.clear()
        self._refused = {}
        self._alone.clear()

    def close(self, seconds: float) -> None:
        """Wait for what is on its way, then drop the rest: it is in the journal."""
        self._contents.clear()
        with contextlib.suppress(KafkaException):
            if self._producer.flush(seconds):
                self._producer.purge()
                self._producer.flush(0)

    def leave_to_parent(self) -> None:
        """In a forked child: keep it for ever, be it used no more.

        A producer's threads do not live on in a child, and to destroy it waits for them: seconds,
        if not for ever. What nobody refers to would be destroyed, at the latest when the
        interpreter ends, which clears all names.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))


_outboxes: Final[weakref.WeakSet[Outbox]] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for outbox in list(_outboxes):
        outbox.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _is_fatal(error: KafkaError) -> bool:
    return error.fatal() or error.code() == KafkaError._FATAL  # noqa: SLF001  (as above)


def _words(error: KafkaError) -> str:
    return f"{error.str()} ({error.name()})"[:300]


def _masked(error: object, config: Mapping[str, Any]) -> str:
    """An error's text without the values of our configuration that are nobody's business."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    text = error.str() if isinstance(error, KafkaError) else str(error)
    for name, value in config.items():
        secret = str(value)
        if any(word in name for word in _SECRET_WORDS) and len(secret) > 3:  # noqa: PLR2004  (shorter: no secret)
            text = text.replace(secret, "[masked]")
    return text[:300]


_SECRET_WORDS: Final = ("password", "secret", "key", "pem", "jaas", "oauth", "token", "username")
