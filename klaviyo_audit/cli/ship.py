"""``klaviyo-audit ship``: deliver the journal to its sinks, beside the program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate
from klaviyo_audit.cli.stopping import stop_by_signal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.settings import Settings
    from klaviyo_audit.sinks.base import Sink
    from klaviyo_audit.sinks.deadletters import Retried
    from klaviyo_audit.sinks.shipping import Shipping, Sinks

_POLL_SECONDS: Final = 0.5
_MOST_SHOWN: Final = 5
_ENDINGS: Final = {
    "waiting": "another process ships to it",
    "stopped": "it was stopped",
    "hung": "it does not answer, and what it has not got stays in the journal",
    "retrying": "the rest stays in the journal",
}
"""What a sink's state means when the command ends."""


@click.command(short_help="Deliver the journal to its sinks.")
@journal_argument
@click.option(
    "--sink",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this sink; can be given several times. Not given: those of the setting sinks.",
)
@click.option("--once", "mode", flag_value="once", default=True, help="Until all is delivered.")
@click.option("-f", "--follow", "mode", flag_value="follow", help="Go on until SIGINT or SIGTERM.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long --once tries.",
)
@click.option("--retry-dead", is_flag=True, help="Send what was rejected again, and nothing else.")
@click.option(
    "--confirm",
    "read_back",
    is_flag=True,
    help="Read back what was delivered, and nothing else; what is not there is sent again.",
)
def ship(
    directory: Path | None,
    *,
    names: tuple[str, ...],
    mode: str,
    timeout: float,
    retry_dead: bool,
    read_back: bool,
) -> None:
    """Deliver the journal in DIR (the setting dir, if not given) to its sinks.

    It goes on where a sink has got to, and does the same as the program would (setting ship).
    One process at a time ships to a sink: while another one does, this one waits for it. Exit
    code 0: everything was delivered; 1: not everything; 2: it could not begin.
    """
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.settings import load
    from klaviyo_audit.sinks.shipping import Sinks

    if retry_dead + read_back + (mode == "follow") > 1:
        fail("--follow, --retry-dead and --confirm are three things to do: give one of them")
    path = locate(directory)
    if not path.is_dir():
        fail(f"{str(path)!r} is not a journal's folder")
    try:
        settings = load(dir=path, sinks=names or None, ship="background")
        sinks = Sinks((), settings)
    except ConfigurationError as error:
        fail(str(error))
    _check(sinks)
    if retry_dead:
        _retry_dead(path, sinks, settings)
        return
    if read_back:
        _confirm(path, sinks, settings, timeout)
        return
    shipping = sinks.ship(path, tell=_told)
    if mode == "follow":
        _follow(shipping, settings)
    else:
        _once(shipping, timeout)


def _confirm(directory: Path, sinks: Sinks, settings: Settings, timeout: float) -> None:
    from klaviyo_audit.cli.confirm import confirm

    made = list(sinks.made())
    if not confirm(directory, made, settings, timeout=timeout, tell=_told):
        raise SystemExit(1)


def _check(sinks: Sinks) -> None:
    if not sinks.names:
        fail(
            "there is no sink to ship to: name one with --sink, or in the setting sinks "
            "(KLAVIYO_AUDIT_SINKS)"
        )
    for name in sinks.names:
        if name not in sinks.kept:
            fail(
                f"the sink {name} shows what its own program records, so there is nothing to ship "
                "to it; klaviyo-audit tail -f shows the journal"
            )


def _told(message: str) -> None:
    from klaviyo_audit.rendering import clean

    click.echo(f"klaviyo-audit: {clean(message, 2000)}", err=True)


def _once(shipping: Shipping, timeout: float) -> None:
    done = shipping.flush(timeout)
    shipping.close(0.0)
    for thread in shipping.threads:
        condition = thread.condition
        text = f"{thread.name}: {condition.delivered:,} entries delivered"
        if condition.rejected:
            text += f", {condition.rejected:,} rejected"
        if condition.state in _ENDINGS:
            text += f"; {_ENDINGS[condition.state]}"
        elif not done and (condition.caught_up_at or "") < (condition.acknowledged_at or "~"):
            text += f"; the time ({timeout:g} s, --timeout) was not enough for all"
        if condition.error:
            text += f" ({condition.error})"
        _told(text)
    if not done:
        raise SystemExit(1)


def _follow(shipping: Shipping, settings: Settings) -> None:
    stop = stop_by_signal()
    while not stop.wait(_POLL_SECONDS):
        pass
    shipping.close(settings.ship_exit_wait)


def _retry_dead(directory: Path, sinks: Sinks, settings: Settings) -> None:
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.sinks.attempts import file_trouble
    from klaviyo_audit.sinks.folder import sink_folder

    failed = False
    for sink in sinks.made():
        if not sink_folder(directory, sink.name).is_dir():
            _told(f"{sink.name}: nothing was shipped to it yet")
            continue
        try:
            retried = _send_again(directory, sink, settings)
        except (OSError, KlaviyoAuditError) as error:
            failed = True
            _told(f"{sink.name}: {file_trouble(error)}; its dead letters are kept")
            continue
        failed = failed or retried.kept > 0 or bool(retried.unreadable)
        _told(
            f"{sink.name}: {retried.delivered:,} dead letters delivered, {retried.kept:,} rejected "
            "again"
        )
        if retried.unreadable:
            folder = sink_folder(directory, sink.name)
            _told(f"{sink.name}: {_unreadable(folder, retried.unreadable)}")
    if failed:
        raise SystemExit(1)


def _unreadable(folder: Path, numbers: Sequence[int]) -> str:
    from klaviyo_audit.sinks.deadletters import DEAD_NAME, UNREADABLE_NAME

    shown = ", ".join(map(str, numbers[:_MOST_SHOWN])) + (
        f" and {len(numbers) - _MOST_SHOWN:,} more" if len(numbers) > _MOST_SHOWN else ""
    )
    return (
        f"{len(numbers):,} lines of {DEAD_NAME} are no dead letters (torn by a crash, or edited; "
        f"line {shown}). They were not sent, and are kept as they are in "
        f"{folder / UNREADABLE_NAME}. What they were about is in the journal: look for the ids in "
        f"them there, put whole lines back into {DEAD_NAME}, and delete the file once nothing in "
        "it is needed"
    )


def _send_again(directory: Path, sink: Sink, settings: Settings) -> Retried:
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.sinks.attempts import Attempts, reason_of
    from klaviyo_audit.sinks.base import Retry
    from klaviyo_audit.sinks.deadletters import retry_dead
    from klaviyo_audit.sinks.folder import sink_folder

    attempts = Attempts(f"klaviyo-audit-{sink.name}")
    most = min(settings.ship_batch_entries, getattr(sink, "max_batch_entries", 1 << 30))

    def deliver(entries: Sequence[AuditEntry]) -> None:
        try:
            attempts.make(entries, lambda: sink.deliver(entries), settings.ship_deadline)
        except KlaviyoAuditError:
            raise
        except Exception as error:  # a sink may raise anything
            raise Retry(why=reason_of(error)) from error

    try:
        retried = retry_dead(sink_folder(directory, sink.name), deliver, most)
    finally:
        attempts.close()
    sink.close()
    return retried
