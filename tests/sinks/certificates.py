"""A certificate authority of the test's own, and certificates that it signs."""

import datetime as dt
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM = serialization.Encoding.PEM


class Authority:
    """Signs certificates for 127.0.0.1.

    Args:
        folder: Where all files go.
        name: What the authority is called; its files begin with it.
    """

    def __init__(self, folder, name="authority"):
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _name(name)
        made = self._builder(self._subject, self._key)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(_PEM))

    def sign(self, name, days=1, passphrase=None, host="127.0.0.1"):
        """A certificate and its key: two files."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._builder(_name(name), key, days).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        certificate = self._folder / f"{self._name}-{name}.pem"
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(_PEM))
        encryption = (
            serialization.BestAvailableEncryption(passphrase)
            if passphrase
            else serialization.NoEncryption()
        )
        private = self._folder / f"{self._name}-{name}.key"
        private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption))
        return certificate, private

    def server_context(self, **options):
        """What a TLS server needs that has a certificate of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.sign("server", **options))
        return context

    def _builder(self, subject, key, days=1):
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=10))
            .not_valid_after(now + dt.timedelta(days=days))
        )


def _name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
