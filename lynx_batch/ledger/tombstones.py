"""Tombstones: what was revoked at an output location, and by whom. They are created once, before anything is removed, and stay.

A tombstone is named by a digest, so a listing says what is revoked, and no list of people has to be kept.
"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.clip import canonical_json
from lynx_batch.errors import ConsentRevoked
from lynx_batch.ledger.records import warn_left_out
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import new_revocation_uri, parse_tombstone, tombstone_uri, tombstones_uri
from lynx_batch.planning.revocation import Key, Kind, explain_revoked

SCHEMA_VERSION = 1


class Tombstone(BaseModel):
    """A person, consent or photo was revoked. `digest` is as in `Key`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    digest: str
    revoked_at: datetime
    revoked_by: str

    @property
    def key(self) -> Key:
        return Key(self.kind, self.digest)


class Revocation(BaseModel):
    """What one call of `revoke` did. `reference` is the consent reference or the photo's hash; empty for a person.

    `refusal` says what the store did not permit, and which damaged files may hold data of the person; empty if nothing is left. `is_erased`: the rows were blanked.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    digest: str
    reference: str = ""
    revoked_at: datetime
    revoked_by: str
    num_clips: int
    num_commits: int
    num_files: int
    num_versions: int
    refusal: str = ""
    is_erased: bool = False
    num_rows_blanked: int = 0


def put_tombstone(output: str, tombstone: Tombstone) -> None:
    """From now on no run commits what it covers. An earlier tombstone stays as it is."""
    uri = tombstone_uri(output, tombstone.kind, tombstone.digest)
    storage.create_only(uri, canonical_json(tombstone.model_dump(mode="json")))


def write_revocation(output: str, revocation: Revocation) -> None:
    uri = new_revocation_uri(output, revocation.revoked_at)
    storage.write_bytes(uri, canonical_json(revocation.model_dump(mode="json")))


def read_revoked(output: str) -> frozenset[Key]:
    """Everything that was revoked, from a listing alone. Foreign files are named in a warning and ignored."""
    keys = set()
    for file in storage.list_files(tombstones_uri(output)):
        name = parse_tombstone(file.uri)
        if name is None or name[0] not in {*Kind}:
            warn_left_out(f"{storage.redact(file.uri)}: not the name of a tombstone")
        else:
            keys.add(Key(Kind(name[0]), name[1]))
    return frozenset(keys)


def refuse_revoked(output: str, keys: Iterable[Key]) -> None:
    """Raises ConsentRevoked if one of `keys` has a tombstone. Retries while the store is unavailable."""
    if reason := explain_revoked(keys, retry_while_unavailable(lambda: read_revoked(output))):
        raise ConsentRevoked(reason)
