"""The errors of the batch renderer. They extend the tree in `lynx_model.errors`.

Permanent
├── ConfigError            a run file, manifest or argument breaks a rule (exit code 2)
├── NoConsent              the subject has not agreed to this clip
│   ├── ConsentExpired         the consent has expired
│   ├── ConsentMissing         the row names no consent
│   ├── ConsentRevoked         the person, the consent or the photo was revoked
│   └── ConsentTooNarrow       the consent does not cover the run's use of the clips
├── InputRefused           a photo or text file is in a place that is not allowed, too large or not a regular file
├── PhotoChanged           the photo has changed since the run was planned
├── PhotoRefused           the store no longer delivers the photo
├── MissingObject          nothing exists at the URI
├── UnsafePhoto            the photo scores too high for unsafe content
├── StoreRefused           the store refuses an operation, or cannot do it
│   └── StoreUnready           because of credentials, the client's configuration or missing space
├── UnreadableRecord       this version cannot read a record of the ledger
└── UnsafeStore            the store does not honour create-only puts
Transient
├── GroupLost              a rank of the group died
├── HeadLost               the head of the Ray cluster, or the only node of a local one, does not answer (exit code 4)
├── UnfitState             the saved state of a paused clip is missing, or belongs to another clip
├── PhotoUnreachable       a web server did not deliver a photo; a retry may help
├── LimitReached           a limit of the run file stopped the run (exit code 5)
├── ImplausibleResult      a picture that is flat or NaN, or was rendered impossibly fast
├── NotMarked              a mark failed that the run requires
├── NotJudged              a scorer failed, so nobody knows whether the clip is good enough
├── TooManyFaults          machines or clips kept failing, so the run stopped (exit code 4)
├── RunStopped             a run on which a command depends stopped early (exit code 4)
└── StoreUnavailable       the store cannot be reached, or does not accept a write
"""

from enum import StrEnum

from lynx_model.errors import LynxError, Permanent, Transient

__all__ = [
    "CONSENT_ERRORS",
    "STORE_FAULTS",
    "ConfigError",
    "ConsentExpired",
    "ConsentMissing",
    "ConsentRevoked",
    "ConsentTooNarrow",
    "Fault",
    "GroupLost",
    "HeadLost",
    "ImplausibleResult",
    "InputRefused",
    "LimitReached",
    "LynxError",
    "MissingObject",
    "NoConsent",
    "NotJudged",
    "NotMarked",
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
    "UnsafePhoto",
    "UnsafeStore",
]


class Fault(StrEnum):
    """Whose fault a failed attempt is.

    input: the clip's input is bad; a retry cannot help. clip: the clip is to blame. memory: it did not fit in GPU memory.
    machine: the node, the store or the cluster failed. unclear: the group died on a node that is still up, because of the machine or
    any clip that it held. lethal: the same, but it held only this clip. drain: nobody; the node is being taken away, as announced.
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


class NoConsent(Permanent):
    """The subject has not agreed to this clip, or does not agree any more."""


class ConsentExpired(NoConsent):
    """The subject's consent has expired."""


class ConsentMissing(NoConsent):
    """The row names no consent, or does not say for what it was given."""


class ConsentRevoked(NoConsent):
    """The person, the consent or the photo was revoked."""


class ConsentTooNarrow(NoConsent):
    """The consent does not cover the scope or the regions in which the run's clips are used."""


class InputRefused(Permanent):
    """A photo or text file is outside `inputs.allow`, too large or not a regular file.

    Also raised for an unforeseen error while reading a photo.
    """


class PhotoChanged(Permanent):
    """The photo's bytes have changed since the run was planned."""


class PhotoRefused(Permanent):
    """The store delivered the photo when the run was planned, but refuses it now."""


class UnsafePhoto(Permanent):
    """The quality gate found the photo unsafe, so nothing is rendered from it."""


class MissingObject(Permanent):
    """Nothing exists at the URI."""


class StoreRefused(Permanent):
    """The store refuses to read, list, write or delete the object, or cannot do so."""


class StoreUnready(StoreRefused):
    """Somebody must first fix the credentials, the client's configuration or the store's free space; running again then continues."""


class UnreadableRecord(Permanent):
    """This version cannot read a record of the ledger."""


class UnsafeStore(Permanent):
    """The store does not honour create-only puts, so a clip could be committed twice."""


class GroupLost(Transient):
    """A worker of the group died, so the group cannot continue."""


class HeadLost(Transient):
    """The head of the Ray cluster, or the only node of a local one, does not answer. The store still has all commits."""


class LimitReached(Transient):
    """A limit of the run file does not let the run start another clip. The message says what is left and how to go on."""


class PhotoUnreachable(Transient):
    """A web server did not deliver a photo in any of the tries. The message begins with the redacted URI and the cause."""


class ImplausibleResult(Transient):
    """The rendered result cannot be right. Another group may do better."""


class NotJudged(Transient):
    """A scorer failed or gave no number, so the clip is not good enough: nobody knows."""


class NotMarked(Transient):
    """A mark failed that the run requires, so the clip may not be delivered."""


class UnfitState(Transient):
    """The saved state of a paused clip is missing, or belongs to another clip or other software; the clip starts over."""


class TooManyFaults(Transient):
    """Machines or clips kept failing, so the run stopped. Running again continues it."""


class RunStopped(Transient):
    """A run on which a command depends stopped early. Running the command again continues it."""


class StoreUnavailable(Transient):
    """The store cannot be reached, or does not accept a write. Never the fault of a clip."""


CONSENT_ERRORS = frozenset(kind.__name__ for kind in (ConsentExpired, ConsentMissing, ConsentRevoked, ConsentTooNarrow))
"""The error types of rows that were rejected for their consent. Every run checks these again."""

STORE_FAULTS = (StoreRefused, StoreUnavailable)
"""Errors that any access to a store may raise, apart from MissingObject."""
