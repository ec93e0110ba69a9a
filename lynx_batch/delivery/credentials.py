"""What a C2PA signature is made with: a chain of certificates, the private key of the first, and the algorithm that fits the key."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lynx_batch.config import C2paConfig
from lynx_batch.errors import ConfigError
from lynx_batch.named_files import read_reference

CERTIFICATES, PRIVATE_KEY = "provenance.c2pa.certificates", "provenance.c2pa.private_key"

MAX_PEM_BYTES = 2**20

CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
KEYS = "must be an EC key (P-256, P-384 or P-521), an Ed25519 key or an RSA key of at least 2048 bits"
MIN_RSA_BITS = 2048

DEVELOPMENT_NAME = "lynx-batch development certificate, trusted by nobody"
DEVELOPMENT_DAYS = 3650


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """`certificates_pem` has the signing certificate first. The key is never shown."""

    algorithm: str
    certificates_pem: bytes
    private_key_pem: bytes = field(repr=False)


def read_credentials(config: C2paConfig, now: datetime) -> Credentials:
    """The credentials that a run file names.

    Raises:
        ConfigError: If one of them breaks a rule; no message repeats any of the key.
        MissingFile, InputRefused, StoreRefused, StoreUnavailable: As `read_reference`.
    """
    if config.is_development or config.private_key is None:
        return make_development_credentials(now)
    chain = _parse_chain(config.certificates, read_reference(CERTIFICATES, config.certificates, MAX_PEM_BYTES))
    key = _parse_key(config.private_key, read_reference(PRIVATE_KEY, config.private_key, MAX_PEM_BYTES))
    algorithm = _algorithm_of(config.private_key, key)
    for rule in (_explain_chain(chain, now), _explain_pair(chain[0], key)):
        if rule is not None:
            raise ConfigError(f"{CERTIFICATES}={config.certificates!r}: {rule}")
    return _credentials(algorithm, chain, key)


def make_development_credentials(now: datetime) -> Credentials:
    """A certificate that names itself as one for development, its issuer, and its key. All are new, and nobody trusts them."""
    issuer_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer_name = _name(f"{DEVELOPMENT_NAME} (issuer)")
    own_usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    issuer = (
        _certificate(issuer_name, issuer_name, issuer_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    own = (
        _certificate(_name(DEVELOPMENT_NAME), issuer_name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(own_usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return _credentials("es256", [own, issuer], key)


def _credentials(algorithm: str, chain: list[x509.Certificate], key: PrivateKeyTypes) -> Credentials:
    return Credentials(
        algorithm=algorithm,
        certificates_pem=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        private_key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _name(common_name: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, DEVELOPMENT_NAME)
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # for nodes whose clocks differ
        .not_valid_after(now + timedelta(days=DEVELOPMENT_DAYS))
    )


def _parse_chain(reference: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{CERTIFICATES}={reference!r}: must hold certificates in PEM") from None


def _parse_key(reference: str, pem: bytes) -> PrivateKeyTypes:
    """Raises ConfigError without the library's message, which might repeat a part of the key."""
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        rule = "must be a key without a passphrase"
    except (ValueError, UnsupportedAlgorithm):
        rule = "must hold one private key in PEM"
    raise ConfigError(f"{PRIVATE_KEY}={reference!r}: {rule}")


def _algorithm_of(reference: str, key: PrivateKeyTypes) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return "ps256"
    raise ConfigError(f"{PRIVATE_KEY}={reference!r}: {KEYS}")


def _explain_chain(chain: list[x509.Certificate], now: datetime) -> str | None:
    for certificate in chain:
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not first <= now <= last:
            return f"must be valid now, but one is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d} only"
    if len(chain) == 1 and chain[0].issuer == chain[0].subject:
        return "must begin with a certificate that somebody else issued, not with a self-signed one"
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            return "must have the signing certificate first, and after each certificate the one of its issuer"
    return None


def _explain_pair(certificate: x509.Certificate, key: PrivateKeyTypes) -> str | None:
    keys = (certificate.public_key(), key.public_key())
    certified, own = (each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in keys)
    return None if certified == own else f"the first certificate must be that of {PRIVATE_KEY}"
