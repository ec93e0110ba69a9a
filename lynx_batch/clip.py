"""One requested video and its name.

A ClipId is a digest of everything that changes the picture, and of nothing else. So a request finds its commit again in any run, in
any order, on any number of GPUs and with any codec settings.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from lynx_batch.printable import CONTROLS
from lynx_model.canonical import ModelTraits, canonicalize
from lynx_model.errors import InvalidParams
from lynx_model.parameters import PARAMETERS, check_parameter
from lynx_model.spec import RenderParams

CONTRACT_VERSION = 2
"""Increased when a change of the code changes pixels. Every ClipId changes with it."""

CLIP_ID_LENGTH = 32
ON_WHICH_DISKS = "on disks that ignore upper and lower case (macOS, Windows)"
UNFIT_FOR_NAMES = re.compile(rf"{CONTROLS.pattern}|[\t\n\u2028\u2029\\]")
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


CELLS = (
    "clip_name",
    "subject_id",
    "face_index",
    "priority",
    "consent_ref",
    "consent_scope",
    "regions",
    "consent_expires_at",
    "prompt_template",
)
"""Manifest columns that become attributes of a request, besides the photos, the parameters and the tags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderIdentity:
    """Everything about a run's model and engine that changes pixels: fingerprints of the weights, and the engine's numerics.

    If `is_parity`, photos are read as the original code does; otherwise colours are converted to sRGB and faces are rotated upright.
    `loras` is the scale and fingerprint of each LoRA, in the order in which they are added.
    """

    base: str
    id_adapter: str
    ref_adapter: str | None
    face_pack: str
    identity_encoder: str
    is_parity: bool
    precision: str
    loras: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The part of a run's ClipIds that does not come from the rows. `texts` maps each text that the model reads to a digest of its
    token ids.
    """

    identity: RenderIdentity
    traits: ModelTraits
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """A manifest row that obeys every rule. Its photos have not been read yet.

    `subject_uris` are the distinct absolute URIs of the person's photos, at least one, and `written` is what the manifest says of
    them: a text in the column `subject_uri`, or several in `subject_uris`. Photos that were packed with a submitted job are read from
    `photo_copies`, one for each. If `is_seed_given` is False, the seed in `params` is a placeholder that `identify` replaces.
    """

    row: int
    subject_uris: tuple[str, ...]
    params: RenderParams
    is_seed_given: bool
    written: str | tuple[str, ...] = ""
    photo_copies: tuple[str, ...] = ()
    clip_name: str | None = None
    subject_id: str | None = None
    face_index: int | None = None
    priority: int = 0
    consent_ref: str | None = None
    consent_scope: str | None = None
    regions: str | None = None
    consent_expires_at: datetime | None = None
    prompt_template: str | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def photo_uris(self) -> tuple[str, ...]:
        """Where the photos are read from."""
        return self.photo_copies or self.subject_uris

    @property
    def photo_column(self) -> str:
        """The column of the manifest that names the photos."""
        return "subject_uri" if isinstance(self.written, str) else "subject_uris"

    @property
    def inputs(self) -> dict[str, Any]:
        """The row's value for each column, with the run's default where its cell is null. The seed is None if none was given."""
        cells = {name: getattr(self, name) for name in CELLS} | {"tags": list(self.tags.items())}
        params = {name: getattr(self.params, name) for name in PARAMETERS}
        photos = photo_inputs(self.subject_uris, self.written)
        return photos | cells | params | ({} if self.is_seed_given else {"seed": None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """A face in a photo that was read. The same face of the same bytes is equal, wherever the photo is stored.

    It is read from `uri`; messages name `subject_uri`, as the manifest does.
    """

    uri: str = field(compare=False)
    subject_uri: str = field(compare=False)
    sha256: str
    face_index: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """One requested video, named by `clip_id`; nothing about it is decided later. It has a portrait for each photo of the request."""

    clip_id: str
    portraits: tuple[Portrait, ...]
    request: ClipRequest

    @property
    def person(self) -> tuple[Portrait, ...]:
        """The portraits that differ, in an order that is the same for all rows that show them."""
        return _distinct(self.portraits)

    @property
    def params(self) -> RenderParams:
        return self.request.params

    @property
    def name(self) -> str:
        """The name to show to people."""
        return self.request.clip_name or self.clip_id


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClip:
    """The video of one attempt in the store. URIs are relative to the output location, so the whole location can be moved.

    `marks` are those that the video carries, `failed_marks` those that failed, with the reasons.
    """

    clip_uri: str
    poster_uri: str
    preview_uri: str | None = None
    sha256: str
    num_bytes: int
    num_frames: int
    fps: int
    width: int
    height: int
    marks: tuple[str, ...] = ()
    failed_marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A manifest row that will not be rendered, and why.

    `error_type` is "InvalidRow" if cells break rules, and otherwise the name of a class in the error tree, such as "ConsentExpired".
    `inputs` is as `ClipRequest.inputs`, as far as the row could be read.
    """

    row: int
    error_type: str
    error: str
    inputs: Mapping[str, Any]


@lru_cache(maxsize=10_000)
def broken_rule(field: str, value: object) -> str | None:
    """The rule that `value` breaks as the parameter `field`, whatever the other parameters are; None if it breaks none."""
    try:
        check_parameter(field, value)
    except InvalidParams as error:
        return error.rule
    return None


def explain_file_name(name: str) -> str | None:
    """The rule that `name` breaks as a file's path below a folder, on any store; None if it breaks none.

    Joiners and special spaces are part of names in Persian and Japanese, and of emoji.
    """
    if UNFIT_FOR_NAMES.search(name):
        return "must not hold control characters or backslashes"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "must be a relative path without empty parts, '.' and '..'"
    return None


def as_file_name(name: str) -> str:
    """`name` with an underscore for each character that no file name of an export may hold."""
    return UNFIT_FOR_NAMES.sub("_", name)


def file_key(name: str) -> str:
    """Equal for all names that are one file on a disk that ignores upper and lower case, and how a letter with an accent is encoded.

    Source: the Unicode Standard, section 3.13, canonical caseless matching. File systems differ in rare letters.
    """
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def photo_inputs(uris: Sequence[str], written: str | Sequence[str]) -> dict[str, Any]:
    """The metadata's columns for the photos of a row, from their URIs and from what the manifest says.

    One photo and several have columns of their own, whichever column of the manifest names them.
    """
    return {
        "subject_uri": uris[0] if len(uris) == 1 else None,
        "subject_uris": list(uris) if len(uris) > 1 else None,
        "manifest_subject_uri": written if isinstance(written, str) else None,
        "manifest_subject_uris": None if isinstance(written, str) else list(written) or None,
    }


def _distinct(portraits: Iterable[Portrait]) -> tuple[Portrait, ...]:
    """Each photo once, in the order of their hashes."""
    return tuple(sorted(dict.fromkeys(portraits), key=lambda portrait: portrait.sha256))


def identify(request: ClipRequest, *, photo_sha256s: Sequence[str], naming: Naming) -> ClipSpec:
    """The clip that `request` asks for, with its ClipId and its final seed. There is a hash for each photo of the request."""
    portraits = tuple(
        _portrait(uri, subject_uri, sha256, request.face_index)
        for uri, subject_uri, sha256 in zip(request.photo_uris, request.subject_uris, photo_sha256s, strict=True)
    )
    content = {
        "contract": CONTRACT_VERSION,
        "params": canonicalize(request.params, naming.traits, naming.texts),
        **_content_of_photos(_distinct(portraits)),
        "face_index": request.face_index,
        "identity": _digest_identity(naming.identity),
    }
    seedless = _digest(content)
    if not request.is_seed_given:
        request = replace(request, params=request.params.changed(seed=int(seedless[:8], 16)))
    named = f'{{"seed":{request.params.seed},"seedless":"{seedless}"}}'  # canonical JSON, written by hand because it is much faster
    clip_id = hashlib.sha256(named.encode()).hexdigest()[:CLIP_ID_LENGTH]
    return ClipSpec(clip_id=clip_id, portraits=portraits, request=request)


def seed_of_try(clip: ClipSpec, number: int) -> int:
    """The seed of a clip's try: the request's own for number 0, else one derived from the ClipId and the number."""
    if number == 0:
        return clip.params.seed
    return int(_digest({"clip_id": clip.clip_id, "try": number})[:8], 16)


def _content_of_photos(person: Sequence[Portrait]) -> dict[str, object]:
    hashes = [portrait.sha256 for portrait in person]
    return {"photo_sha256": hashes[0]} if len(hashes) == 1 else {"photo_sha256s": hashes}


@lru_cache(maxsize=10_000)
def _portrait(uri: str, subject_uri: str, sha256: str, face_index: int | None) -> Portrait:
    """One object for all clips of a photo."""
    return Portrait(uri=uri, subject_uri=subject_uri, sha256=sha256, face_index=face_index)


@lru_cache(maxsize=1)
def _digest_identity(identity: RenderIdentity) -> str:
    return _digest(asdict(identity))


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: object) -> bytes:
    """A JSON value as UTF-8, always the same for equal values: sorted keys, no spaces, shortest numbers, no NaN."""
    return ENCODER.encode(value).encode()
