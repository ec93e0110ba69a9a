"""The section `inputs` of a run file: where photos may be stored."""

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from lynx_batch.config.section import Section
from lynx_batch.photo_places import ANYWHERE, explain_entry


class InputsConfig(Section):
    """Where photos may be stored, and the limits for reading them.

    Each item of `allow` permits itself and everything below it: a folder, a bucket or a folder in one, a web server or a folder on
    one, or a whole scheme: `/`, `s3://`, `gs://`, `az://`, `http://`, `https://`. A loopback or link-local web address
    (127.0.0.1, 169.254.0.0/16 and the like) is allowed only if an item names its host and port.
    A photo is requested at most `max_tries` times. Each try may take `connect_timeout_s` to connect, and may wait `read_timeout_s`
    for data. All tries together take at most `max_tries` times the sum of both.
    """

    allow: tuple[str, ...] = Field(default=ANYWHERE, min_length=1)
    max_photo_bytes: int = Field(default=64 * 2**20, ge=1)
    connect_timeout_s: float = Field(default=10.0, gt=0)
    read_timeout_s: float = Field(default=60.0, gt=0)
    max_tries: int = Field(default=3, ge=1)

    @field_validator("allow")
    @classmethod
    def _check_places(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for entry in allow:
            if (rule := explain_entry(entry)) is not None:
                raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return allow

    @property
    def longest_s(self) -> float:
        """The most time that reading one photo may take, all tries included."""
        return self.max_tries * (self.connect_timeout_s + self.read_timeout_s)
