"""The batch's own leaves of the tree that `lynx_model.errors` draws.

Permanent
├── ConfigError            a run file, manifest or argument breaks a rule (exit code 2)
├── PhotoChanged           the photo is not the one that the run was planned with
├── MissingObject          nothing lies at the URI
└── UnsafeStore            the store does not honour create-only puts
Transient
└── GroupLost              a rank of the group died
"""

from lynx_model.errors import LynxError, Permanent, Transient

__all__ = [
    "ConfigError",
    "GroupLost",
    "LynxError",
    "MissingObject",
    "Permanent",
    "PhotoChanged",
    "Transient",
    "UnsafeStore",
]


class ConfigError(Permanent):
    """A run file, manifest or argument breaks a rule; nothing was started."""


class PhotoChanged(Permanent):
    """The bytes of the photo are not those that the run was planned with."""


class MissingObject(Permanent):
    """Nothing lies at the URI."""


class UnsafeStore(Permanent):
    """The store does not honour create-only puts, so commits could be doubled."""


class GroupLost(Transient):
    """A worker of the group died, so the group cannot go on."""
