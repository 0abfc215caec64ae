"""The files of the OTLP sink's TLS settings, looked at before anything depends on them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from klaviyo_audit.sinks.otlp.settings import OtlpSettings

_REFUSED: Final = "CERTIFICATE_VERIFY_FAILED"
"""In what OpenSSL and gRPC's BoringSSL say of a certificate that is not trusted."""


def check_files(settings: OtlpSettings) -> None:
    """See whether the TLS files can be used.

    Both protocols' libraries would say so at the first delivery only, in their own words, and
    OpenSSL would ask at the terminal for the passphrase of a key.

    Raises:
        ConfigurationError: One cannot be read, or is not what its variable is for.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.certificate is not None:
        try:
            context.load_verify_locations(settings.certificate)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                _unusable("CERTIFICATE", settings.certificate, "authorities' certificates", error)
            ) from None
    if settings.client_certificate is None:
        if settings.client_key is not None:
            raise ConfigurationError(
                f"OTEL_EXPORTER_OTLP_CLIENT_KEY is {settings.client_key}, and there is no "
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE that it belongs to"
            )
        return
    try:
        context.load_cert_chain(
            settings.client_certificate, settings.client_key, password=_no_passphrase
        )
    except (OSError, ValueError) as error:
        what = "a certificate and its key, which has no passphrase,"
        if settings.client_key is not None:
            what += f" with the key in {settings.client_key} (_CLIENT_KEY)"
        raise ConfigurationError(
            _unusable("CLIENT_CERTIFICATE", settings.client_certificate, what, error)
        ) from None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _unusable(variable: str, path: Path, what: str, error: Exception) -> str:
    why = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return (
        f"OTEL_EXPORTER_OTLP_{variable} (or _LOGS_{variable}) names {path}, which cannot be used "
        f"as {what} in PEM: {why}"
    )


def distrust(settings: OtlpSettings, said: str) -> str | None:
    """What to tell of a connection that failed since the certificate is not trusted.

    Args:
        settings: Where the collector is.
        said: What the TLS library said.

    Returns:
        None if it was something else.
    """
    if _REFUSED not in said:
        return None
    # "...certificate verify failed: self-signed certificate (_ssl.c:1006)"; gRPC's ends likewise.
    why = said.rpartition(_REFUSED)[2].lstrip("]: ").removeprefix("certificate verify failed: ")
    why = why.partition(" (_ssl")[0].strip() or "no reason was given"
    told = (
        f"signed by an authority in {settings.certificate} (OTEL_EXPORTER_OTLP_CERTIFICATE)"
        if settings.certificate is not None
        else "signed by one of this system's authorities; name a private one's certificate in "
        "OTEL_EXPORTER_OTLP_CERTIFICATE"
    )
    return (
        f"{settings.place} has a TLS certificate that is not trusted ({settings.masked(why)}). It "
        f"must be valid, for that host, and {told}. Nothing was sent"
    )
