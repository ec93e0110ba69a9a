"""The section `defaults` of a run file: values for cells of the manifest that are null."""

from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.clip import broken_rule
from lynx_batch.config.section import Section
from lynx_model.parameters import PARAMETERS, Parameter
from lynx_model.ranges import explain_step_ranges


def _default(parameter: Parameter) -> tuple[Any, Any]:
    """A parameter's type and default in a run file. Without a seed, each clip gets one derived from its name."""
    if parameter.name == "seed":
        return int | None, Field(default=None, description=f"{parameter.help} Null derives one for each clip.")
    return parameter.annotation, Field(default=parameter.default, description=parameter.help)


if TYPE_CHECKING:  # a type checker cannot see the keys that `create_model` adds

    class _ParameterDefaults(Section):
        def __getattr__(self, name: str) -> Any: ...

else:
    _ParameterDefaults = create_model(
        "_ParameterDefaults",
        __base__=Section,
        **{name: _default(parameter) for name, parameter in PARAMETERS.items() if name != "prompt"},
    )


class DefaultsConfig(_ParameterDefaults):
    """Values for manifest cells that are null. There is a key for each parameter of a clip except the prompt.

    A text with more tokens than the model reads is an error; `truncate_prompts: true` cuts it instead.
    """

    truncate_prompts: bool = False

    @field_validator(*(name for name in PARAMETERS if name != "prompt"))
    @classmethod
    def _obeys_the_model(cls, value: object, info: ValidationInfo) -> object:
        rule = broken_rule(str(info.field_name), value) if value is not None else None
        if rule is not None:
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return value

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        for field, value, rule in explain_step_ranges(partial(getattr, self)):
            raise PydanticCustomError("broken_rule", f"{field}={value}: {rule}")
        return self
