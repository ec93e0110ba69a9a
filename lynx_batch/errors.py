"""The batch's own leaves of the tree that `lynx_model.errors` draws.

Permanent
├── ConfigError            a run file, manifest or argument breaks a rule (exit code 2)
├── ConsentExpired         the subject's consent has run out
├── PhotoChanged           the photo is not the one that the run was planned with
├── MissingObject          nothing lies at the URI
├── StoreRefused           the store will not let us read what lies at the URI
├── UnreadableRecord       a record of the ledger is not one that this version can read
└── UnsafeStore            the store does not honour create-only puts
Transient
├── GroupLost              a rank of the group died
├── HeadLost               the head of the Ray cluster, or the only node of a local one, does not answer (exit code 4)
├── UnfitState             what was saved of a paused clip is not there, or not this clip's
├── ImplausibleResult      a picture that is flat or not a number, or one that took no time
├── TooManyFaults          machines or clips fail again and again, so the run stopped (exit code 4)
└── StoreUnavailable       the store cannot be reached, or does not take what is written to it
"""

from lynx_model.errors import LynxError, Permanent, Transient

__all__ = [
    "ConfigError",
    "ConsentExpired",
    "GroupLost",
    "HeadLost",
    "ImplausibleResult",
    "LynxError",
    "MissingObject",
    "Permanent",
    "PhotoChanged",
    "StoreRefused",
    "StoreUnavailable",
    "TooManyFaults",
    "Transient",
    "UnfitState",
    "UnreadableRecord",
    "UnsafeStore",
]


class ConfigError(Permanent):
    """A run file, manifest or argument breaks a rule; nothing was started."""


class ConsentExpired(Permanent):
    """The subject's consent has run out."""


class PhotoChanged(Permanent):
    """The bytes of the photo are not those that the run was planned with."""


class MissingObject(Permanent):
    """Nothing lies at the URI."""


class StoreRefused(Permanent):
    """The store will not let us read what lies at the URI."""


class UnreadableRecord(Permanent):
    """A record of the ledger is not one that this version can read."""


class UnsafeStore(Permanent):
    """The store does not honour create-only puts, so commits could be doubled."""


class GroupLost(Transient):
    """A worker of the group died, so the group cannot go on."""


class HeadLost(Transient):
    """The head of the Ray cluster, or the only node of a local one, does not answer; the bucket knows what is committed."""


class ImplausibleResult(Transient):
    """What was rendered cannot be right: another group may do better."""


class UnfitState(Transient):
    """What was saved of a paused clip is not there, is not this clip's, or is other software's; the clip begins anew."""


class TooManyFaults(Transient):
    """Machines or clips fail again and again, so the run stopped; running again goes on."""


class StoreUnavailable(Transient):
    """The store cannot be reached, or does not take what is written to it: never the fault of a clip."""
