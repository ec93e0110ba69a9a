"""All errors, as one tree.

    LynxError
    ├── Permanent              the clip is wrong: trying again cannot help
    │   ├── InvalidParams          a size, count or scale that the model cannot take
    │   ├── UnreadableImage        the photo cannot be decoded
    │   ├── UnreadableVideo        the clip's MP4 cannot be decoded
    │   ├── FaceError
    │   │   ├── NoFaceFound
    │   │   ├── FaceTooSmall
    │   │   ├── SeveralFaces       several faces and no `face_index`
    │   │   └── DifferentPeople    one of several photos shows somebody else
    │   ├── EncoderMismatch        an identity embedding of another encoder than the adapters expect
    │   ├── WeightsMismatch        a tensor is missing, surplus or misshapen
    │   └── MissingFile            a model file or face pack is not where it should be
    └── Transient              the environment failed: another try may succeed
        ├── OutOfMemory
        └── Interrupted            the sampler was asked to stop
            └── sampler.Paused         and returned the state to resume from

`lynx_batch.errors` adds the errors of the batch. A message names the field, the value and the rule.
"""


class LynxError(Exception):
    """The base of all our errors."""


class Permanent(LynxError):
    """The clip is wrong; trying again cannot help."""


class Transient(LynxError):
    """The environment failed; another try may succeed."""


class InvalidParams(Permanent):
    """A render parameter breaks a rule of the model."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field}={value!r}: {rule}")
        self.field, self.value, self.rule = field, value, rule

    def __reduce__(self) -> tuple[type["InvalidParams"], tuple[str, object, str]]:
        return InvalidParams, (self.field, self.value, self.rule)


class UnreadableImage(Permanent):
    """The photo cannot be decoded."""


class UnreadableVideo(Permanent):
    """The MP4 of a clip cannot be decoded."""


class FaceError(Permanent):
    """The photo was read, but its faces cannot be used."""


class NoFaceFound(FaceError):
    """No face in the photo."""


class FaceTooSmall(FaceError):
    """The face is smaller than the model can use."""


class SeveralFaces(FaceError):
    """There are several faces, and no `face_index` to choose one."""


class DifferentPeople(FaceError):
    """One of several photos shows somebody else than the others."""


class EncoderMismatch(Permanent):
    """The identity embedding comes from another encoder than the adapters declare."""


class WeightsMismatch(Permanent):
    """A tensor of a checkpoint is missing, surplus or misshapen."""


class MissingFile(Permanent):
    """A model file or a face pack is not where it should be."""


class OutOfMemory(Transient):
    """The device ran out of memory."""


class Interrupted(Transient):
    """The sampler was asked to stop between two steps."""
