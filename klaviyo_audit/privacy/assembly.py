"""Making the gate that the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.gate import Gate
from klaviyo_audit.privacy.identifiers import phone_library
from klaviyo_audit.privacy.keyring import Key, KeyRing
from klaviyo_audit.privacy.policy import Level, Policy
from klaviyo_audit.privacy.pseudonyms import Naming, Pseudonyms, RingNaming
from klaviyo_audit.privacy.subject_keys import FILE_NAME, KEY_ID, SubjectKeys

if TYPE_CHECKING:
    from klaviyo_audit.settings import Settings

_SOURCES = ("pseudonym_key", "pseudonym_key_file", "pseudonym_key_command")


def make_gate(settings: Settings) -> Gate:
    """The gate of one configuration.

    Raises:
        ConfigurationError: A key, the policy file, or the store of subjects' keys cannot be used,
            or settings contradict each other.
    """
    pseudonyms = make_pseudonyms(settings)
    if settings.actor_ids == "pseudonym" and pseudonyms is None:
        raise ConfigurationError(
            f"actor_ids is 'pseudonym' (from {settings.sources['actor_ids']}) but there is no key "
            "to make pseudonyms with; set pseudonym_key"
        )
    if settings.forget_on_deletion and settings.subject_keys == "off":
        raise ConfigurationError(
            f"forget_on_deletion is true (from {settings.sources['forget_on_deletion']}) but "
            "persons have no keys of their own that could be destroyed; set subject_keys to 'on'"
        )
    return Gate(
        pseudonyms,
        policy=make_policy(settings),
        environment=settings.environment,
        actor_ids=settings.actor_ids,
    )


def make_policy(settings: Settings) -> Policy:
    """The rules of one configuration.

    Raises:
        ConfigurationError: The policy file cannot be used.
    """
    default = Level(settings.capture)
    if settings.policy is None:
        return Policy(default)
    return Policy.load(settings.policy, default)


def make_pseudonyms(settings: Settings) -> Pseudonyms | None:
    """What makes the pseudonyms of one configuration; None if there is no key.

    Raises:
        ConfigurationError: Two sources of keys are given, or one cannot be used.
    """
    if settings.phone_region is not None:
        phone_library()
    ring = make_ring(settings)
    naming: list[Naming] = []
    digest_key: Key | None = None if ring is None else ring.newest
    subjects = make_subject_keys(settings)
    if subjects is not None:
        naming.append(subjects)
        master = settings.subject_master_key
        assert master is not None
        digest_key = digest_key or Key(KEY_ID, master.get_secret_value().encode())
    if ring is not None:
        naming.append(RingNaming(ring))
    if digest_key is None:
        return None
    return Pseudonyms(tuple(naming), digest_key, settings.phone_region)


def make_ring(settings: Settings) -> KeyRing | None:
    """The pseudonym keys of one configuration.

    Raises:
        ConfigurationError: Two sources are given, or one cannot be used.
    """
    given = [name for name in _SOURCES if getattr(settings, name) is not None]
    if len(given) > 1:
        told = " and ".join(f"{name} (from {settings.sources[name]})" for name in given)
        raise ConfigurationError(f"{told} exclude each other; keep one of them")
    if settings.pseudonym_key is not None:
        return KeyRing.from_text(settings.pseudonym_key.get_secret_value())
    if settings.pseudonym_key_file is not None:
        return KeyRing.from_file(settings.pseudonym_key_file)
    if settings.pseudonym_key_command is not None:
        return KeyRing.from_command(settings.pseudonym_key_command)
    return None


def make_subject_keys(settings: Settings) -> SubjectKeys | None:
    """The store of subjects' keys; None where they are off.

    Raises:
        ConfigurationError: There is no master key, or not the one the store was made with.
    """
    if settings.subject_keys == "off":
        return None
    if settings.subject_master_key is None:
        raise ConfigurationError(
            f"subject_keys is 'on' (from {settings.sources['subject_keys']}) but "
            "subject_master_key is not set; give it through the environment or a secret manager, "
            "never from a file beside the journal"
        )
    master = settings.subject_master_key.get_secret_value().encode()
    keys = SubjectKeys(settings.dir.absolute() / FILE_NAME, master)
    keys.check()
    return keys
