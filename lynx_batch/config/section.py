"""What all sections of a run file have in common."""

from types import NoneType
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool:
            kind = "model_type" if _is_section(annotation) else "no_truth"
            raise PydanticCustomError(kind, "must not be true or false")
        return value


def _is_section(annotation: object) -> bool:
    """Whether a key takes a section: it may also take null."""
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return all(isinstance(kind, type) and issubclass(kind, Section) for kind in kinds)
