"""C2PA: signs a finished video, so that any later change of a byte shows, and reads the signature back."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import c2pa
from PIL import Image

from lynx_batch.delivery.credentials import Credentials
from lynx_batch.errors import ConfigError
from lynx_batch.redaction import hide_secrets

MP4 = "video/mp4"

CLIP_ASSERTION = "org.lynx-batch.clip"
"""Our own assertion: hashes and the ClipId, nothing about a person."""

MADE_BY_AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""Source: IPTC NewsCodes, Digital Source Type; C2PA 2.1, c2pa.actions."""

TOLERATED = frozenset({"signingCredential.untrusted", "signingCredential.expired"})
"""About the certificate, not about the video: it is not on the library's trust list, or expired after signing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedFacts:
    """What the signature says about a clip. `model` has fingerprints by name."""

    clip_id: str
    model: Mapping[str, str]
    consent_sha256: str | None = None

    def as_assertion(self) -> dict[str, object]:
        consent = {} if self.consent_sha256 is None else {"consent_ref_sha256": self.consent_sha256}
        return {"clip_id": self.clip_id, "model": dict(self.model), **consent}


def sign(content: bytes, facts: SignedFacts, credentials: Credentials, *, time_stamp_url: str | None) -> bytes:
    """The MP4 with its signed manifest.

    Raises:
        c2pa.C2paError: If the credentials break a rule of C2PA, or the time-stamp authority does not answer.
    """
    return _sign(content, MP4, facts, credentials, time_stamp_url)


def rehearse(credentials: Credentials, *, time_stamp_url: str | None) -> None:
    """Signs a small picture. Raises ConfigError if no signature comes of it that can be read back."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, format="PNG")
    facts = SignedFacts(clip_id="rehearsal", model={})
    try:
        signed = _sign(picture.getvalue(), "image/png", facts, credentials, time_stamp_url)
        faults = list(_find_faults(signed, "image/png", facts.clip_id))
    except c2pa.C2paError as error:
        faults = [hide_secrets(str(error))]
    if faults:
        authority = "" if time_stamp_url is None else " and provenance.c2pa.time_stamp_url must answer from here"
        raise ConfigError(
            f"provenance.c2pa: certificates and private_key must be fit for signing{authority}: {'; '.join(faults)}"
        )


def find_signature_faults(content: bytes, clip_id: str) -> Iterator[str]:
    """What is wrong with the signature of an MP4, which must be that of the clip."""
    yield from _find_faults(content, MP4, clip_id)


def _sign(content: bytes, kind: str, facts: SignedFacts, credentials: Credentials, time_stamp_url: str | None) -> bytes:
    signed = io.BytesIO()
    signer_info = c2pa.C2paSignerInfo(
        credentials.algorithm, credentials.certificates_pem, credentials.private_key_pem, time_stamp_url
    )
    with c2pa.Signer.from_info(signer_info) as signer, c2pa.Builder(_manifest(facts)) as builder:
        builder.sign(signer, kind, io.BytesIO(content), signed)
    return signed.getvalue()


def _manifest(facts: SignedFacts) -> str:
    created = {"action": "c2pa.created", "digitalSourceType": MADE_BY_AI}
    return json.dumps(
        {
            "claim_generator_info": [{"name": "lynx-batch", "version": version("lynx-batch")}],
            "title": f"Clip {facts.clip_id}",
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
                {"label": CLIP_ASSERTION, "data": facts.as_assertion()},
            ],
        }
    )


def _find_faults(content: bytes, kind: str, clip_id: str) -> Iterator[str]:
    try:
        with c2pa.Reader(kind, io.BytesIO(content)) as reader:
            report = json.loads(reader.json())
    except c2pa.C2paError as error:
        yield f"c2pa: must be a signed file: {error}"
        return
    for status in report.get("validation_status", ()):
        if status["code"] not in TOLERATED:
            yield f"c2pa: {status['code']}: {status.get('explanation', '')}"
    assertions = report["manifests"][report["active_manifest"]].get("assertions", ())
    named = [each["data"].get("clip_id") for each in assertions if each["label"] == CLIP_ASSERTION]
    if named != [clip_id]:
        yield f"c2pa: signed for clip {', '.join(map(str, named)) or 'none'}: must be {clip_id}"
    actions = [
        action for each in assertions if each["label"] == "c2pa.actions.v2" for action in each["data"]["actions"]
    ]
    if MADE_BY_AI not in {action.get("digitalSourceType") for action in actions}:
        yield f"c2pa: digitalSourceType must be {MADE_BY_AI}"
