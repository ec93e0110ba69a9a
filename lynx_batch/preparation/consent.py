"""What a run demands of its rows' consents, and the rows that `revoke` has erased."""

from collections.abc import Iterable, Set
from dataclasses import replace

import structlog

from lynx_batch.clip import Rejection
from lynx_batch.config import RunConfig
from lynx_batch.errors import STORE_FAULTS, ConfigError, ConsentRevoked
from lynx_batch.intake.consent import NO_KEYS, ConsentRules, read_revoked_list
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.planning.revocation import Key
from lynx_batch.preparation.selection import Selection

log = structlog.get_logger()


def is_consent_required(config: RunConfig, selection: Selection) -> bool:
    return config.provenance.require_consent and not selection.allow_missing_consent


def read_tombstones(output: str) -> frozenset[Key]:
    """What is revoked at the output of a run that will start elsewhere. If it cannot be read from here: nothing, and a warning."""
    try:
        return read_revoked(output)
    except (*STORE_FAULTS, ConfigError) as error:
        log.warning("revocations_unread", error=str(error), note="the run reads them when it starts")
        return NO_KEYS


def read_rules(config: RunConfig, selection: Selection, tombstones: frozenset[Key] = NO_KEYS) -> ConsentRules:
    """The rules of a run, with what its own lists revoke.

    Raises:
        ConfigError, MissingObject: If such a list is broken or missing.
    """
    use = config.provenance.use
    return ConsentRules(
        is_required=is_consent_required(config, selection),
        scope=use.scope,
        regions=use.regions,
        tombstones=tombstones,
        listed=NO_KEYS.union(*map(read_revoked_list, config.provenance.revoked)),
    )


def without_cells(rejections: Iterable[Rejection], rows: Set[int]) -> list[Rejection]:
    """The rejections; those of `rows`, which have tombstones, say nothing about their person."""
    return [
        replace(each, error_type=ConsentRevoked.__name__, error="revoked", inputs={}) if each.row in rows else each
        for each in rejections
    ]
