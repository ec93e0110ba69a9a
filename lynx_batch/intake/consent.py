"""Which rows have a consent that covers what a run makes of them. Reads no photos."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime

from lynx_batch import storage
from lynx_batch.clip import ClipRequest, ClipSpec, Rejection
from lynx_batch.errors import (
    ConfigError,
    ConsentExpired,
    ConsentMissing,
    ConsentRevoked,
    ConsentTooNarrow,
    NoConsent,
)
from lynx_batch.intake.csv_text import read_lines
from lynx_batch.planning.revocation import SHA256, Key, Kind, explain_revoked, key_of, keys_of, keys_of_photos
from lynx_batch.storage import SizeLimit, redact

EVERYTHING = "*"
LIST_LIMIT = SizeLimit(64 * 2**20, "provenance.revoked")

NO_KEYS: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRules:
    """What a run demands of its rows.

    If `is_required`, a row must name its consent, and must say what it covers where the run states `scope` or `regions`. `tombstones`
    were put by `revoke`, and `listed` comes from the run's own lists.
    """

    is_required: bool
    scope: str | None = None
    regions: tuple[str, ...] = ()
    tombstones: frozenset[Key] = NO_KEYS
    listed: frozenset[Key] = NO_KEYS

    @property
    def revoked(self) -> frozenset[Key]:
        return self.tombstones | self.listed


def reject_without_consent(
    requests: Iterable[ClipRequest], rules: ConsentRules, now: datetime
) -> tuple[list[ClipRequest], list[Rejection]]:
    """The requests whose consent covers the run at `now`, and the rejections of the others."""
    kept, rejections, revoked = [], [], rules.revoked
    for request in requests:
        fault = _explain(request, rules, revoked, now)
        if fault is None:
            kept.append(request)
        else:
            rejections.append(_reject(request, fault))
    return kept, rejections


def reject_revoked_photos(clips: Iterable[ClipSpec], revoked: Set[Key]) -> tuple[list[ClipSpec], list[Rejection]]:
    """The clips whose photos are not `revoked`, and the rejections of the others."""
    if not revoked:
        return list(clips), []
    kept, rejections = [], []
    for clip in clips:
        if fault := _explain_photos((portrait.sha256 for portrait in clip.portraits), revoked):
            rejections.append(_reject(clip.request, fault))
        else:
            kept.append(clip)
    return kept, rejections


def reject_revoked_requests(
    requests: Iterable[ClipRequest], sha256_of: Mapping[str, str], revoked: Set[Key]
) -> tuple[list[ClipRequest], list[Rejection]]:
    """As `reject_revoked_photos`, for rows that are no clips yet. `sha256_of` has the hashes of the photos that were read, by URI."""
    kept, rejections = [], []
    for request in requests:
        known = [sha256_of[uri] for uri in request.subject_uris if uri in sha256_of]
        if fault := _explain_photos(known, revoked):
            rejections.append(_reject(request, fault))
        else:
            kept.append(request)
    return kept, rejections


def read_revoked_list(uri: str) -> frozenset[Key]:
    """What a CSV file revokes.

    Raises:
        ConfigError: If it is not a CSV file in UTF-8 whose columns are among `subject_id`, `consent_ref` and `photo_sha256`.
        MissingObject: If there is nothing at `uri`.
    """
    source = f"provenance.revoked {redact(uri)}"
    try:
        text = storage.read_bytes(uri, LIST_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: must be a CSV file in UTF-8: {error}") from error
    lines = [(number, cells) for number, cells in read_lines(text, ",", source) if cells]
    (_, names), *rows = lines or [(1, [])]
    if not names or len(set(names)) < len(names) or not set(names) <= {*Kind}:
        raise ConfigError(f"{source}: its columns must be among {', '.join(Kind)}, each at most once (got {names})")
    keys = set[Key]()
    for number, cells in rows:
        if len(cells) != len(names):
            raise ConfigError(f"{source}: row {number} must have {len(names)} cells, but has {len(cells)}")
        for name, value in zip(map(Kind, names), map(str.strip, cells), strict=True):
            if not value:
                continue
            if name is Kind.PHOTO_SHA256 and not SHA256.fullmatch(value := value.lower()):
                raise ConfigError(f"{source}: row {number}: photo_sha256={value!r}: must be 64 hexadecimal digits")
            keys.add(key_of(name, value))
    return frozenset(keys)


def explain_names(text: str) -> str | None:
    """The rule that `text` breaks as names with commas between; None if it breaks none."""
    return None if all(_names(text)) else "must be names with commas between, such as EU,US"


def _explain(request: ClipRequest, rules: ConsentRules, revoked: Set[Key], now: datetime) -> NoConsent | None:
    """Why the row's consent does not cover the run. Shows no reference and no person."""
    if revoked and (reason := explain_revoked(keys_of(request.subject_id, request.consent_ref), revoked)):
        return ConsentRevoked(reason)
    if rules.is_required and not (request.consent_ref or "").strip():
        return ConsentMissing(
            f"consent_ref={request.consent_ref!r}: required, because provenance.require_consent is true"
        )
    expires_at = request.consent_expires_at
    if expires_at is not None and expires_at <= now:
        return ConsentExpired(f"consent_expires_at={expires_at.isoformat()}: must be in the future")
    scopes = (rules.scope,) if rules.scope is not None else ()
    return _explain_cover("consent_scope", request.consent_scope, "scope", scopes, rules) or _explain_cover(
        "regions", request.regions, "regions", rules.regions, rules
    )


def _explain_cover(
    column: str, given: str | None, key: str, wanted: Iterable[str], rules: ConsentRules
) -> NoConsent | None:
    wanted = list(wanted)
    if not wanted:
        return None
    if given is None:
        needs = f"{column}=None: required, because provenance.use.{key} is set"
        return ConsentMissing(needs) if rules.is_required else None
    names = _names(given)
    missing = [name for name in wanted if name.strip().casefold() not in names]
    if EVERYTHING in names or not missing:
        return None
    return ConsentTooNarrow(f"{column}={given!r}: must include {', '.join(missing)}, as in provenance.use.{key}")


def _explain_photos(hashes: Iterable[str], revoked: Set[Key]) -> NoConsent | None:
    reason = explain_revoked(keys_of_photos(hashes), revoked)
    return None if reason is None else ConsentRevoked(reason)


def _names(text: str) -> set[str]:
    return {name.strip().casefold() for name in text.split(",")}


def _reject(request: ClipRequest, fault: NoConsent) -> Rejection:
    return Rejection(row=request.row, error_type=type(fault).__name__, error=str(fault), inputs=request.inputs)
