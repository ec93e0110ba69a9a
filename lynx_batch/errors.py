"""The batch's own leaves of the tree that `lynx_model.errors` draws.

Permanent
├── ConfigError            a run file, manifest or argument breaks a rule (exit code 2)
├── ConsentExpired         the subject's consent has run out
├── InputRefused           a photo or text file lies where it may not, is too large or is no regular file
├── PhotoChanged           the photo is not the one that the run was planned with
├── PhotoRefused           the store will not give the photo any more
├── MissingObject          nothing lies at the URI
├── StoreRefused           the store will not let us do what was asked, or cannot do it
│   └── StoreUnready           it would, but for credentials, the client's configuration or room
├── UnreadableRecord       a record of the ledger is not one that this version can read
└── UnsafeStore            the store does not honour create-only puts
Transient
├── GroupLost              a rank of the group died
├── HeadLost               the head of the Ray cluster, or the only node of a local one, does not answer (exit code 4)
├── UnfitState             what was saved of a paused clip is not there, or not this clip's
├── PhotoUnreachable       a web server did not give a photo, which may pass
├── ImplausibleResult      a picture that is flat or not a number, or one that took no time
├── TooManyFaults          machines or clips fail again and again, so the run stopped (exit code 4)
└── StoreUnavailable       the store cannot be reached, or does not take what is written to it
"""

from enum import StrEnum

from lynx_model.errors import LynxError, Permanent, Transient

__all__ = [
    "STORE_FAULTS",
    "ConfigError",
    "ConsentExpired",
    "Fault",
    "GroupLost",
    "HeadLost",
    "ImplausibleResult",
    "InputRefused",
    "LynxError",
    "MissingObject",
    "Permanent",
    "PhotoChanged",
    "PhotoRefused",
    "PhotoUnreachable",
    "StoreRefused",
    "StoreUnavailable",
    "StoreUnready",
    "TooManyFaults",
    "Transient",
    "UnfitState",
    "UnreadableRecord",
    "UnsafeStore",
]


class Fault(StrEnum):
    """Whose fault a failed attempt is.

    input: the clip's input is bad, and another try cannot help. clip: the clip's. memory: it did not fit the GPUs' memory.
    machine: the node, the store or the cluster failed. unclear: the group broke on a node that lives, through the machine or any
    of the clips aboard. lethal: the same, with this clip alone aboard. drain: nobody's; its node is taken away, as announced.
    """

    INPUT = "input"
    CLIP = "clip"
    MEMORY = "memory"
    MACHINE = "machine"
    UNCLEAR = "unclear"
    LETHAL = "lethal"
    DRAIN = "drain"


class ConfigError(Permanent):
    """A run file, manifest or argument breaks a rule; nothing was started."""


class ConsentExpired(Permanent):
    """The subject's consent has run out."""


class InputRefused(Permanent):
    """A photo or text file lies where `inputs.allow` has no place for it, is too large or is no regular file.

    Or reading the photo failed in a way that nobody foresaw.
    """


class PhotoChanged(Permanent):
    """The bytes of the photo are not those that the run was planned with."""


class PhotoRefused(Permanent):
    """The store of the photo gave it when the run was planned, and will not do so any more."""


class MissingObject(Permanent):
    """Nothing lies at the URI."""


class StoreRefused(Permanent):
    """The store will not let us read, list, put or delete what lies at the URI, or cannot."""


class StoreUnready(StoreRefused):
    """Credentials, the client's configuration or the store's room must be mended first; then running again goes on."""


class UnreadableRecord(Permanent):
    """A record of the ledger is not one that this version can read."""


class UnsafeStore(Permanent):
    """The store does not honour create-only puts, so commits could be doubled."""


class GroupLost(Transient):
    """A worker of the group died, so the group cannot go on."""


class HeadLost(Transient):
    """The head of the Ray cluster, or the only node of a local one, does not answer; the bucket knows what is committed."""


class PhotoUnreachable(Transient):
    """A web server did not give a photo, however often it was asked. The text begins with the redacted URI and the cause."""


class ImplausibleResult(Transient):
    """What was rendered cannot be right: another group may do better."""


class UnfitState(Transient):
    """What was saved of a paused clip is not there, is not this clip's, or is other software's; the clip begins anew."""


class TooManyFaults(Transient):
    """Machines or clips fail again and again, so the run stopped; running again goes on."""


class StoreUnavailable(Transient):
    """The store cannot be reached, or does not take what is written to it: never the fault of a clip."""


STORE_FAULTS = (StoreRefused, StoreUnavailable)
"""What any access to a store may end with, whatever lies there."""
