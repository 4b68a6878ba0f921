"""Certificates and keys for signing: the user's own, or a self-made chain that says that it is untrusted."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preprocessing.errors import UsageError, display_path

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

INSTALL = "C2PA manifests need packages that are not installed: pip install -r requirements-provenance.txt"
UNTRUSTED = "UNTRUSTED self-made certificate, for trying only"
_DAYS = 30  # a self-made certificate is not for long


@dataclass(frozen=True)
class Credentials:
    """What a signer needs.

    Attributes:
        chain: certificates in PEM, the signer's own first.
        key: its private key in PEM, unencrypted.
        algorithm: es256, es384, es512, ps256 or ed25519.
    """

    chain: bytes
    key: bytes
    algorithm: str


def load_credentials(certificate: Path, key: Path) -> Credentials:
    """Reads a chain of certificates and its private key, both PEM.

    Raises:
        UsageError: a file is missing or unreadable, the key does not fit the certificate, or the certificate is
            outside its period.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    chain, secret = _read(certificate, "certificate"), _read(key, "key")
    try:
        own = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise UsageError(f"{display_path(certificate)} holds no certificate in PEM form") from error
    try:
        private = load_pem_private_key(secret, None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{display_path(key)} holds no unencrypted private key in PEM form") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != own.public_key().public_bytes(*form):
        raise UsageError(f"the key {display_path(key)} does not belong to the certificate {display_path(certificate)}")
    now = datetime.datetime.now(datetime.UTC)
    if not own.not_valid_before_utc <= now <= own.not_valid_after_utc:
        raise UsageError(
            f"the certificate {display_path(certificate)} is valid from {own.not_valid_before_utc:%Y-%m-%d} to "
            f"{own.not_valid_after_utc:%Y-%m-%d} only"
        )
    return Credentials(chain, secret, _algorithm(private, key))


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"the {what} {display_path(path)} cannot be read: {error.strerror}") from error


def _algorithm(key: object, path: Path) -> str:
    """The signature algorithm of a key, of those that C2PA allows."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
        if key.curve.name in curves:
            return curves[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise UsageError(f"C2PA does not allow the key {display_path(path)}: use P-256, P-384, P-521, RSA or Ed25519")


def self_made_credentials() -> Credentials:
    """A new chain, made for this one use: nobody has checked who made it, and its name says so."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    root_key, own_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("root", root_key, "root", root_key)
    own = _certificate("signer", own_key, "root", root_key)
    chain = own.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)
    key = own_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Credentials(chain, key, "es256")


def _certificate(
    subject: str, key: EllipticCurvePrivateKey, issuer: str, issuer_key: EllipticCurvePrivateKey
) -> x509.Certificate:
    """A certificate as C2PA asks for it: digitalSignature and emailProtection for the signer."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID

    ca, now = subject == issuer, datetime.datetime.now(datetime.UTC)
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_usage(ca), critical=True).add_extension(key_id, critical=False)
        .add_extension(issuer_id, critical=False)
    )  # fmt: skip
    if not ca:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(issuer_key, SHA256())


def _name(role: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, UNTRUSTED)
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, f"Wav2Lip {role} (untrusted)")])


def _usage(ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def write_credentials(folder: Path) -> tuple[Path, Path]:
    """Writes a self-made chain and its key as chain.pem and key.pem, the key readable by this user only.

    Raises:
        UsageError: one of the files exists.
        OSError: they cannot be written.
    """
    made = self_made_credentials()
    chain, key = folder / "chain.pem", folder / "key.pem"
    for path in (chain, key):
        if path.exists():
            raise UsageError(f"{display_path(path)} exists already: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(made.key)
    chain.write_bytes(made.chain)
    return chain, key
