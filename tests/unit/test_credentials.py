"""Certificates and keys for C2PA: those that are fit sign, the others are refused before anything is rendered."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from lynx_batch.config import ProvenanceConfig, load_run_config
from lynx_batch.delivery.content_credentials import rehearse
from lynx_batch.delivery.credentials import read_credentials
from lynx_batch.delivery.marker import check_provenance
from lynx_batch.errors import ConfigError, LynxError
from tests.builders import write_run
from tests.certificates import key_pem, make_chain, make_key


def provenance(folder: Path, chain: bytes, key: bytes) -> ProvenanceConfig:
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key)
    c2pa = {"certificates": str(folder / "chain.pem"), "private_key": str(folder / "key.pem")}
    return ProvenanceConfig(marking="required", c2pa=c2pa)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("es256", "es256"), ("es384", "es384"), ("es512", "es512"), ("ed25519", "ed25519"), ("rsa2048", "ps256")],
)
def test_the_key_decides_about_the_algorithm(kind: str, algorithm: str, tmp_path: Path) -> None:
    key = make_key(kind)
    config = provenance(tmp_path, b"".join(make_chain(key)), key_pem(key))
    credentials = read_credentials(config.c2pa, datetime.now(UTC))
    assert credentials.algorithm == algorithm
    assert "PRIVATE" not in repr(credentials)
    rehearse(credentials, time_stamp_url=None)


def test_chain_and_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key("es256")
    monkeypatch.setenv("SIGNING_CHAIN", b"".join(make_chain(key)).decode())
    monkeypatch.setenv("SIGNING_KEY", key_pem(key).decode())
    c2pa = {"certificates": "env:SIGNING_CHAIN", "private_key": "env:SIGNING_KEY"}
    check_provenance(ProvenanceConfig(marking="required", c2pa=c2pa), [])

    monkeypatch.delenv("SIGNING_KEY")
    with pytest.raises(LynxError, match=r"private_key='env:SIGNING_KEY': the environment variable SIGNING_KEY must be"):
        check_provenance(ProvenanceConfig(marking="required", c2pa=c2pa), [])


def bad_credentials(kind: str) -> tuple[bytes, bytes]:
    key, other = make_key("es256"), make_key("es256")
    own, issuer = make_chain(key)
    pem = key_pem(key)
    return {
        "no certificates": (b"hello", pem),
        "no key": (own + issuer, b"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n"),
        "passphrase": (own + issuer, key_pem(key, b"open sesame")),
        "another's key": (own + issuer, key_pem(other)),
        "wrong order": (issuer + own, pem),
        "foreign issuer": (own + make_chain(other)[0], pem),
        "self-signed": (issuer, pem),
        "expired": (b"".join(make_chain(key, days=-1)), pem),
        "short RSA": (b"".join(make_chain(short := make_key("rsa1024"))), key_pem(short)),
        "odd curve": (b"".join(make_chain(koblitz := make_key("koblitz"))), key_pem(koblitz)),
        "for servers": (b"".join(make_chain(key, usage=ExtendedKeyUsageOID.SERVER_AUTH)), pem),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("no certificates", "must hold certificates in PEM"),
        ("no key", "must hold one private key in PEM"),
        ("passphrase", "must be a key without a passphrase"),
        ("another's key", "the first certificate must be that of provenance.c2pa.private_key"),
        ("wrong order", "must have the signing certificate first"),
        ("foreign issuer", "must have the signing certificate first"),
        ("self-signed", "must begin with a certificate that somebody else issued"),
        ("expired", "must be valid now"),
        ("short RSA", "must be an EC key (P-256, P-384 or P-521), an Ed25519 key or an RSA key of at least 2048 bits"),
        ("odd curve", "must be an EC key (P-256, P-384 or P-521)"),
        ("for servers", "must be fit for signing"),
    ],
)
def test_unfit_credentials_are_refused_and_no_message_shows_the_key(kind: str, fault: str, tmp_path: Path) -> None:
    chain, key = bad_credentials(kind)
    with pytest.raises(ConfigError, match=r"provenance\.c2pa") as error:
        check_provenance(provenance(tmp_path, chain, key), [])
    assert fault in str(error.value)
    assert not any(line in str(error.value) for line in key.decode().splitlines())


def test_an_authority_that_does_not_answer_is_an_error_before_anything_is_rendered() -> None:
    c2pa = {"certificates": "development", "time_stamp_url": "http://127.0.0.1:9/tsa"}
    with pytest.raises(ConfigError, match=r"time_stamp_url must answer from here.*127\.0\.0\.1:9"):
        check_provenance(ProvenanceConfig(marking="required", c2pa=c2pa), [])


# The run file


def test_paths_in_the_section_start_at_the_run_file(tmp_path: Path, face_pack: Path) -> None:
    label = {"logo": "logo.png"}
    c2pa = {"certificates": "chain.pem", "private_key": "env:KEY"}
    marks = {"marking": "try", "label": label, "watermark": "mark.jit", "c2pa": c2pa}
    found = load_run_config(write_run(tmp_path, face_pack, provenance=marks), {}).provenance
    assert found.label.logo == str(tmp_path / "logo.png")
    assert found.watermark == str(tmp_path / "mark.jit")
    assert (found.c2pa.certificates, found.c2pa.private_key) == (str(tmp_path / "chain.pem"), "env:KEY")
    assert found.is_on
    assert not load_run_config(write_run(tmp_path, face_pack), {}).provenance.is_on


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"marking": "maybe"}, "provenance.marking: must be 'none', 'try' or 'required'"),
        ({"marking": "try"}, "marking=try: needs at least one of label, watermark, aigc and c2pa"),
        ({"label": {}}, "provenance.label: needs either text or logo"),
        ({"label": {"text": "AI", "logo": "a.png"}}, "provenance.label: needs either text or logo"),
        ({"label": {"logo": "a.png", "font": "a.ttf"}}, "font is for text, but there is none"),
        ({"label": {"text": "two\nlines"}}, "provenance.label.text: must be one line of visible text"),
        ({"label": {"text": "A" * 201}}, "must be one line of visible text with at most 200 characters"),
        ({"label": {"text": " "}}, "provenance.label.text: must be one line of visible text"),
        ({"label": {"text": "AI", "height": 0.04}}, "provenance.label.height: must be at least 0.05 (got 0.04)"),
        ({"label": {"text": "AI", "seconds": 0}}, "provenance.label.seconds: must be above 0"),
        ({"label": {"text": "AI", "seconds": float("inf")}}, "provenance.label.seconds: must be at most 3600"),
        ({"label": {"text": "AI", "corner": "middle"}}, "provenance.label.corner: must be 'top-left'"),
        ({"aigc": {"content_producer": ""}}, "content_producer: must not be empty"),
        ({"c2pa": {"certificates": "a.pem"}}, "provenance.c2pa: certificates needs a private_key"),
        ({"c2pa": {"certificates": "development", "private_key": "a"}}, "certificates takes no private_key"),
        (
            {"c2pa": {"certificates": "env:", "private_key": "a"}},
            "must be env: and the name of an environment variable",
        ),
        (
            {"c2pa": {"certificates": "development", "time_stamp_url": "tsa.example"}},
            "provenance.c2pa.time_stamp_url: must be an http:// or https:// address with a host (got 'tsa.example')",
        ),
        ({"watermark": "ftp://host/mark.jit"}, "provenance.watermark: must be a path or a URI"),
    ],
    ids=str,
)
def test_a_bad_section_is_refused_with_key_and_rule(
    section: dict[str, object], fault: str, tmp_path: Path, face_pack: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        load_run_config(write_run(tmp_path, face_pack, provenance=section), {})
    assert fault in str(error.value)


@pytest.mark.parametrize("key", ["certificates", "private_key"])
@pytest.mark.parametrize("layout", ["{pem!r}", "[{pem!r}]", "|\n      {indented}", "{pem}"])
def test_a_key_that_was_pasted_into_the_run_file_is_never_repeated(
    key: str, layout: str, tmp_path: Path, face_pack: Path
) -> None:
    pem = key_pem(make_key("es256")).decode()
    pasted = layout.format(pem=pem, indented=pem.replace("\n", "\n      ")).replace("'", '"')
    file = write_run(tmp_path, face_pack)
    with file.open("a") as run_file:
        run_file.write(f"provenance:\n  c2pa:\n    {key}: {pasted}\n")
    with pytest.raises(ConfigError) as error:
        load_run_config(file, {})
    assert not any(line in str(error.value) for line in pem.splitlines() if line)


def test_the_run_record_names_the_key_and_does_not_hold_it(
    tmp_path: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNING_KEY", "SECRET")
    c2pa = {"certificates": "chain.pem", "private_key": "env:SIGNING_KEY"}
    config = load_run_config(write_run(tmp_path, face_pack, provenance={"c2pa": c2pa}), {})
    assert b"env:SIGNING_KEY" in config.to_yaml()
    assert b"SECRET" not in config.to_yaml()
