"""Everything that can go wrong, as one tree.

    LynxError
    ├── Permanent              the clip is wrong: trying again cannot help
    │   ├── InvalidParams          a size, count or scale that the model cannot take
    │   ├── UnreadableImage        the photo cannot be decoded
    │   ├── FaceError
    │   │   ├── NoFaceFound
    │   │   ├── FaceTooSmall
    │   │   └── SeveralFaces       several faces and no `face_index`
    │   ├── EncoderMismatch        an identity embedding that the adapters were not trained on
    │   ├── WeightsMismatch        a tensor is missing, surplus or misshapen
    │   └── MissingFile            a model file or face pack is not where it should be
    └── Transient              the world is wrong: another try may succeed
        ├── OutOfMemory
        └── Interrupted            somebody asked the sampler to stop
            └── sampler.Paused         and to tell how to go on later

`lynx_batch.errors` adds the batch's own leaves. A message names the field, the value and the rule.
"""


class LynxError(Exception):
    """Root of the tree."""


class Permanent(LynxError):
    """The clip is wrong; trying again cannot help."""


class Transient(LynxError):
    """The world is wrong; another try may succeed."""


class InvalidParams(Permanent):
    """A render parameter breaks a rule of the model."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field}={value!r}: {rule}")
        self.field, self.value, self.rule = field, value, rule

    def __reduce__(self) -> tuple[type["InvalidParams"], tuple[str, object, str]]:
        return InvalidParams, (self.field, self.value, self.rule)


class UnreadableImage(Permanent):
    """The photo cannot be decoded."""


class FaceError(Permanent):
    """The photo was read, but its faces cannot be used."""


class NoFaceFound(FaceError):
    """No face in the photo."""


class FaceTooSmall(FaceError):
    """The face is smaller than the model can use."""


class SeveralFaces(FaceError):
    """Several faces and no `face_index` that says which one is meant."""


class EncoderMismatch(Permanent):
    """The identity embedding comes from an encoder that the adapters did not declare."""


class WeightsMismatch(Permanent):
    """A tensor of a checkpoint is missing, surplus or misshapen."""


class MissingFile(Permanent):
    """A model file or a face pack is not where it should be."""


class OutOfMemory(Transient):
    """The device ran out of memory."""


class Interrupted(Transient):
    """The sampler was asked to stop between two steps."""
