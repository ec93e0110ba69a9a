"""Applies the marks that a run asks for, and checks before the run that this is possible. Decodes no video, which needs more packages."""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import structlog
from numpy.typing import NDArray
from tenacity import Retrying, stop_after_attempt, wait_exponential

from lynx_batch import storage
from lynx_batch.clip import ClipSpec, RenderIdentity
from lynx_batch.config import C2paConfig, ProvenanceConfig
from lynx_batch.delivery.label import Label
from lynx_batch.delivery.marks import Mark, MarkLog
from lynx_batch.delivery.tags import aigc_tag
from lynx_batch.errors import ConfigError
from lynx_model.errors import MissingFile

if TYPE_CHECKING:
    from lynx_batch.delivery.content_credentials import SignedFacts
    from lynx_batch.delivery.credentials import Credentials
    from lynx_model.watermark import Watermark

log = structlog.get_logger()

TRUST_PACKAGES = ("c2pa", "cryptography")
"""What the extra `trust` installs."""

SIGNED_WEIGHTS = ("base", "id_adapter", "ref_adapter", "loras")
"""The fingerprints in a signature: what made the picture, and nothing about the photo."""

MIN_SHARE_OF_BITS = 0.9
"""How much of a watermark must be readable in the encoded video. A random message matches one half."""

NUM_READ_FRAMES = 8
"""Frames in which a watermark is looked for."""

NUM_SIGNING_TRIES = 3
"""A time-stamp authority may be busy for a moment."""


class Marker:
    """Applies the marks that a run asks for. It is loaded once and used for every clip."""

    def __init__(self, provenance: ProvenanceConfig, watermark: "Watermark | None" = None) -> None:
        """Reads and checks everything that the marks need. `watermark` was loaded from `provenance.watermark`.

        Raises:
            ConfigError: If a label, certificate or key is unfit, or a package is missing.
            MissingFile, InputRefused, StoreRefused, StoreUnavailable: If a file cannot be read.
        """
        self.is_on = provenance.is_on
        self.is_required = provenance.marking == "required"
        self._aigc = provenance.aigc if self.is_on else None
        self._label = Label(provenance.label) if self.is_on and provenance.label is not None else None
        self._watermark = watermark if self.is_on else None
        self._credentials: Credentials | None = None
        self._time_stamp_url = None
        if self.is_on and provenance.c2pa is not None:
            self._credentials = _read_credentials(provenance.c2pa)
            self._time_stamp_url = provenance.c2pa.time_stamp_url

    def rehearse(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Raises ConfigError if the label does not fit a frame of these widths and heights, or nothing can be signed."""
        if self._label is not None:
            for width, height in sizes:
                self._label.check_fit(width, height)
        if self._credentials is not None:
            from lynx_batch.delivery.content_credentials import rehearse

            rehearse(self._credentials, time_stamp_url=self._time_stamp_url)

    def mark_frames(
        self, frames_FHWC: NDArray[np.uint8], clip_id: str, *, fps: int, has_preview: bool, marks: MarkLog
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The frames of the video, and those from which the poster and perhaps a preview are made, for which one may be enough."""
        shown, stills = frames_FHWC, frames_FHWC
        if self._label is not None:
            with marks.trying(Mark.LABEL):
                shown = self._label.burn(frames_FHWC, fps=fps)
                stills = shown
                if self._label.is_at_start_only:
                    stills = self._label.burn_all(frames_FHWC if has_preview else middle_frame(frames_FHWC))
        if self._watermark is not None:
            with marks.trying(Mark.WATERMARK):
                shown = self._watermark.embed(shown, message_of(clip_id, self._watermark.num_bits))
        return shown, stills

    def tags(self, clip_id: str) -> dict[str, str]:
        """The tags that mark the clip."""
        return {} if self._aigc is None else aigc_tag(self._aigc, clip_id)

    def find_watermark_faults(self, frames_FHWC: NDArray[np.uint8], clip_id: str) -> Iterator[str]:
        """What is wrong with the watermark in the frames of the encoded video."""
        if self._watermark is None:
            return
        chosen = np.linspace(0, len(frames_FHWC) - 1, min(NUM_READ_FRAMES, len(frames_FHWC))).astype(int)
        found = self._watermark.read(frames_FHWC[chosen])
        share = float((found == message_of(clip_id, self._watermark.num_bits)).mean())
        if share < MIN_SHARE_OF_BITS:
            yield f"{share:.0%} of the bits can be read from the video: must be at least {MIN_SHARE_OF_BITS:.0%}"

    def sign(self, video: bytes, clip: ClipSpec, identity: RenderIdentity, marks: MarkLog) -> bytes:
        """The video with its signature. Nothing may change it afterwards."""
        if self._credentials is not None:
            with marks.trying(Mark.C2PA):
                return self._sign(video, _signed_facts(clip, identity), self._credentials)
        return video

    def _sign(self, video: bytes, facts: "SignedFacts", credentials: "Credentials") -> bytes:
        from lynx_batch.delivery.content_credentials import find_signature_faults, sign

        num_tries = 1 if self._time_stamp_url is None else NUM_SIGNING_TRIES
        for attempt in Retrying(stop=stop_after_attempt(num_tries), wait=wait_exponential(), reraise=True):
            with attempt:
                signed = sign(video, facts, credentials, time_stamp_url=self._time_stamp_url)
        if faults := list(find_signature_faults(signed, facts.clip_id)):
            raise ValueError("; ".join(faults))
        return signed


def check_provenance(provenance: ProvenanceConfig, sizes: Iterable[tuple[int, int]]) -> None:
    """Checks before any GPU works that clips of these widths and heights can be marked.

    A watermark's network is not loaded; its file must exist. Raises as `Marker` and `Marker.rehearse` do.
    """
    if not provenance.is_on:
        return
    watermark = provenance.watermark
    if watermark is not None and storage.stat(watermark) is None:
        raise MissingFile(f"provenance.watermark={storage.redact(watermark)!r}: does not exist")
    Marker(provenance).rehearse(sizes)


def require_trust_packages(what: str) -> None:
    """Raises ConfigError if a package is missing that `what` needs."""
    if missing := [name for name in TRUST_PACKAGES if find_spec(name) is None]:
        raise ConfigError(f"{what}: needs {' and '.join(missing)}: pip install 'lynx-batch[trust]'")


def middle_frame(frames_FHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame of the poster, (1, H, W, 3)."""
    middle = len(frames_FHWC) // 2
    return frames_FHWC[middle : middle + 1]


def message_of(clip_id: str, num_bits: int) -> NDArray[np.bool_]:
    """The watermark's message: a digest of the ClipId, (num_bits,)."""
    digest = hashlib.shake_256(clip_id.encode()).digest(-(-num_bits // 8))
    return np.unpackbits(np.frombuffer(digest, np.uint8))[:num_bits].astype(np.bool_)


def _signed_facts(clip: ClipSpec, identity: RenderIdentity) -> "SignedFacts":
    from lynx_batch.delivery.content_credentials import SignedFacts

    return SignedFacts(
        clip_id=clip.clip_id,
        model={name: value for name in SIGNED_WEIGHTS if (value := getattr(identity, name)) is not None},
        consent_sha256=_hash(clip.request.consent_ref),
    )


def _hash(reference: str | None) -> str | None:
    return hashlib.sha256(reference.encode()).hexdigest() if reference and reference.strip() else None


def _read_credentials(config: C2paConfig) -> "Credentials":
    require_trust_packages("provenance.c2pa")
    from lynx_batch.delivery.credentials import read_credentials

    if config.is_development:
        log.warning("development_certificate", note="nobody trusts these signatures: provenance.c2pa.certificates")
    return read_credentials(config, datetime.now(UTC))
