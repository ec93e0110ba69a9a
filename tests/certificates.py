"""Certificates and keys as a certificate authority would give them, for C2PA."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER_KEY = ec.generate_private_key(ec.SECP256R1())


def make_key(kind: str) -> PrivateKeyTypes:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))
    curves = {"es256": ec.SECP256R1(), "es384": ec.SECP384R1(), "es512": ec.SECP521R1(), "koblitz": ec.SECP256K1()}
    return ec.generate_private_key(curves[kind])


def key_pem(key: PrivateKeyTypes, passphrase: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def make_chain(key: PrivateKeyTypes, *, days: int = 30, usage: x509.ObjectIdentifier | None = None) -> list[bytes]:
    """A signing certificate for `key`, and the one of its issuer, which is valid for as long."""
    usage = usage or ExtendedKeyUsageOID.EMAIL_PROTECTION
    own = _begin("Example Studio", key, days).add_extension(x509.BasicConstraints(False, None), critical=True)
    own = own.add_extension(_usage(signs_files=True), critical=True)
    own = own.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(ISSUER_KEY.public_key())
    own = own.add_extension(issued_by, critical=False)
    issuer = _begin("Example Issuer", ISSUER_KEY, days).add_extension(x509.BasicConstraints(True, 0), critical=True)
    issuer = issuer.add_extension(_usage(signs_files=False), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(ISSUER_KEY.public_key())
    issuer = issuer.add_extension(identifier, critical=False)
    return [each.sign(ISSUER_KEY, hashes.SHA256()).public_bytes(Encoding.PEM) for each in (own, issuer)]


def _begin(name: str, key: PrivateKeyTypes, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("Example Issuer"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, name) for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)])


def _usage(*, signs_files: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs_files,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs_files,
        crl_sign=not signs_files,
        encipher_only=False,
        decipher_only=False,
    )
