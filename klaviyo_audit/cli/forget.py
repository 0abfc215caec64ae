"""``klaviyo-audit forget``: destroy a person's keys, so that their entries cannot be linked."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING

import click

from klaviyo_audit.cli.location import fail, journal_argument, locate

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.privacy.erasure import Forgotten
    from klaviyo_audit.privacy.identifiers import Kind
    from klaviyo_audit.settings import Settings


@click.command(short_help="Destroy a person's keys: their entries can no longer be linked to them.")
@click.argument("person")
@journal_argument
@click.option(
    "--also",
    multiple=True,
    metavar="PERSON",
    help="Another identifier of the same person (phone number, external id).",
)
@click.option("--reason", metavar="TEXT", help="Why, for the entry about it.")
@click.option("--json", "as_json", is_flag=True, help="Print the certificate as JSON.")
def forget(
    person: str,
    directory: Path | None,
    *,
    also: tuple[str, ...],
    reason: str | None,
    as_json: bool,
) -> None:
    """Destroy the keys of PERSON in the journal in DIR, record that, and print a certificate.

    Needs the setting subject_keys and its master key. Nothing in the journal changes, so that
    checkpoints and proofs verify as before. Exit code 1: the person had no key.
    """
    from klaviyo_audit.cli.person import settings_for
    from klaviyo_audit.errors import KlaviyoAuditError

    path = locate(directory)
    settings = settings_for(path)
    persons = (person, *also)
    try:
        identifiers = [_normal(one, settings) for one in persons]
        done = _destroy(path, persons, identifiers, reason, settings, as_json=as_json)
        if done.trouble is not None:
            raise done.trouble
    except (KlaviyoAuditError, OSError) as error:
        fail(str(error))
    if not done.kinds:
        click.echo("nothing was destroyed: no key of this person was found", err=True)
        raise SystemExit(1)
    if done.unknown:
        click.echo(f"{done.unknown} of the identifiers had no key", err=True)


def _normal(person: str, settings: Settings) -> tuple[Kind, str]:
    from klaviyo_audit.analysis.query import identifier
    from klaviyo_audit.privacy.identifiers import normalise

    kind, value = identifier(person)
    normal = normalise(kind, value, settings.phone_region)
    if normal is None:
        fail(f"one of the identifiers is no {kind.value.replace('_', ' ')}; nothing was destroyed")
    return kind, normal


def _destroy(
    path: Path,
    persons: tuple[str, ...],
    identifiers: list[tuple[Kind, str]],
    reason: str | None,
    settings: Settings,
    *,
    as_json: bool,
) -> Forgotten:
    from klaviyo_audit import context
    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.entry import Result
    from klaviyo_audit.privacy import clean_text, erasure
    from klaviyo_audit.privacy.assembly import make_subject_keys

    keys = make_subject_keys(settings)
    if keys is None:
        fail(
            "subject_keys is off: all persons share the pseudonym key, so none can be forgotten "
            "alone. Set subject_keys to 'on' (it counts for entries from then on), or exchange the "
            "pseudonym key and destroy the old one, which forgets everybody."
        )
    try:
        if not any(keys.names(kind, normal) for kind, normal in identifiers):
            # Also then: what a killed one has left is brought to its end.
            return erasure.forget(keys, identifiers)
        with Auditor(
            journal=path, sinks=(), seal="off", service="klaviyo-audit", on_failure="continue"
        ) as auditor:
            user = auditor.settings.user_id or f"klaviyo-audit/{getpass.getuser()}"
            # Masked: a pseudonym would make the person a new key, and name them by it.
            told = None if reason is None else clean_text(reason)
            with context.acting_as(user, reason=told):
                auditor.record(erasure.BEGUN)
                done = erasure.forget(keys, identifiers)
                entry_id = auditor.record(
                    erasure.ACTION, result=Result.SUCCESS, metadata=done.facts()
                )
            _certify(path, persons, done, user, entry_id, auditor.settings, as_json=as_json)
        return done
    finally:
        keys.close()


def _certify(
    path: Path,
    persons: tuple[str, ...],
    done: Forgotten,
    user: str,
    entry_id: str | None,
    settings: Settings,
    *,
    as_json: bool,
) -> None:
    from klaviyo_audit import clock
    from klaviyo_audit.privacy import erasure

    certificate = erasure.Certificate(
        persons=persons,
        kinds=done.kinds,
        when=clock.now(),
        by=user,
        entry_id=entry_id,
        journal=settings.origin or path.absolute().name,
        sealed_lines=_sealed_lines(path),
        still_linked=_still_linked(path, persons, settings),
    )
    if as_json:
        click.echo(json.dumps(certificate.to_dict(), indent=2))
    else:
        from klaviyo_audit.rendering import clean

        for line in certificate.to_text().splitlines():
            click.echo(clean(line, 1000))


def _still_linked(path: Path, persons: tuple[str, ...], settings: Settings) -> int:
    from klaviyo_audit.analysis.query import Question, find, names_of
    from klaviyo_audit.privacy.assembly import make_pseudonyms

    pseudonyms = make_pseudonyms(settings)
    if pseudonyms is None:
        return 0
    names = tuple(name for person in persons for name in names_of(person, pseudonyms))
    return sum(1 for _ in find(path, Question(names)))


def _sealed_lines(path: Path) -> int | None:
    from klaviyo_audit.errors import KlaviyoAuditError
    from klaviyo_audit.journal.checkpoints import sealed_size

    try:
        return sealed_size(path) or None
    except (KlaviyoAuditError, OSError):
        return None
