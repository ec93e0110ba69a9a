"""The sections `video` and `provenance` of a run file: how frames are encoded, and how clips are marked as made by AI."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lynx_batch.config.references import DEVELOPMENT, explain_reference, is_web_address
from lynx_batch.config.section import Section

MAX_LABEL_LENGTH = 200


class VideoConfig(Section):
    """How frames are encoded. Nothing here changes a ClipId.

    `tags: id` writes the ClipId and a neutral title into the MP4; `all` writes the clip's name, prompt and seed, too. `preview` adds a
    small silent animation beside the poster, for mail: at most 480 pixels wide and high.
    """

    crf: int = Field(default=18, ge=0, le=51)
    tags: Literal["id", "none", "all"] = "id"
    preview: Literal["gif", "webp"] | None = None


class LabelConfig(Section):
    """A visible label in a corner of the frames: `text`, or `logo`, a PNG file.

    `height` is that of a capital letter or of the logo, as a share of the frame's shorter side. `seconds: null` shows the label
    throughout, a number at the start only; the poster and the preview always show it. `font` is a TrueType or OpenType file. The
    built-in font has Latin letters, kana, and the Chinese and Korean characters of common AI labels.
    """

    text: str | None = None
    logo: str | None = None
    font: str | None = None
    corner: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = "bottom-right"
    height: float = Field(default=0.06, ge=0.05, le=0.5)
    seconds: float | None = Field(default=None, gt=0, le=3600)

    @field_validator("text")
    @classmethod
    def _is_one_line(cls, text: str | None) -> str | None:
        if text is not None and not (text.strip() and text.isprintable() and len(text) <= MAX_LABEL_LENGTH):
            rule = f"must be one line of visible text with at most {MAX_LABEL_LENGTH} characters"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return text

    @model_validator(mode="after")
    def _has_one_picture(self) -> Self:
        if (self.text is None) == (self.logo is None):
            raise PydanticCustomError("broken_rule", "needs either text or logo")
        if self.font is not None and self.text is None:
            raise PydanticCustomError("broken_rule", "font is for text, but there is none")
        return self


class AigcConfig(Section):
    """The key `AIGC` in the MP4, as China's GB 45438-2025 requires: who produced the video, and who spreads it.

    `ProduceID` is the ClipId.
    """

    content_producer: str
    content_propagator: str = ""
    propagate_id: str = ""

    @field_validator("content_producer")
    @classmethod
    def _names_somebody(cls, producer: str) -> str:
        if not producer.strip():
            raise PydanticCustomError("broken_rule", "must not be empty")
        return producer


class C2paConfig(Section):
    """A C2PA signature (Content Credentials), the last change of the MP4.

    `certificates` is a PEM file with the signing certificate first and then its issuers, `private_key` its key in PEM, without a
    passphrase. Each is a path, a URI of a store, or `env:NAME`, an environment variable that holds the PEM text on every node.
    `certificates: development` makes a certificate that nobody trusts, for trying out; the file says so. `time_stamp_url` is the
    address of a time-stamp authority (RFC 3161). With it, a signature stays valid after its certificate has expired.
    """

    certificates: str
    private_key: str | None = None
    time_stamp_url: str | None = None

    @field_validator("certificates", "private_key")
    @classmethod
    def _is_a_reference(cls, reference: str | None) -> str | None:
        if reference is not None and (rule := explain_reference(reference)) is not None:
            raise PydanticCustomError("secret", "{rule}", {"rule": rule})
        return reference

    @field_validator("time_stamp_url")
    @classmethod
    def _is_a_web_address(cls, url: str | None) -> str | None:
        if url is not None and not is_web_address(url):
            raise PydanticCustomError("broken_rule", "must be an http:// or https:// address with a host")
        return url

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if (self.private_key is None) != self.is_development:
            rule = "takes no private_key" if self.is_development else "needs a private_key"
            raise PydanticCustomError("broken_rule", f"certificates {rule}")
        return self

    @property
    def is_development(self) -> bool:
        return self.certificates == DEVELOPMENT


class UseConfig(Section):
    """What the clips are for. A row's consent must cover it.

    `scope` is one of your names, such as `ad`, and must be among those of the row's `consent_scope`. Each of `regions` must be among
    those of the row's `regions`. Upper and lower case count as the same, and `*` in a row covers everything.
    """

    scope: str | None = None
    regions: tuple[str, ...] = ()

    @field_validator("scope")
    @classmethod
    def _is_a_scope(cls, scope: str | None) -> str | None:
        if scope is not None:
            _check_name(scope)
        return scope

    @field_validator("regions")
    @classmethod
    def _are_regions(cls, regions: tuple[str, ...]) -> tuple[str, ...]:
        for region in regions:
            _check_name(region)
        return regions


def _check_name(name: str) -> None:
    """Raises an error unless a row's consent could cover the name: rows have names with commas between."""
    if not name.strip() or "," in name:
        raise PydanticCustomError("broken_rule", "must be one name, without commas, such as ad or EU")


class ProvenanceConfig(Section):
    """Whose consent a row needs, and how each video is marked as made by AI. Nothing here changes a ClipId.

    With `require_consent`, a row without a `consent_ref` is rejected, and with `use` also one that does not say what its consent covers;
    `--allow-missing-consent` accepts both. An expired, revoked or too narrow consent always rejects its row. Each item of `revoked` is
    the path or URI of a CSV file with a column `consent_ref`, `subject_id` or `photo_sha256`, or several of them: whatever it lists is
    revoked.

    `marking: required` commits no clip without all the marks named here: a clip whose marking fails is tried again, and fails in the
    end. `try` commits it, and the commit names the mark that failed. `none` marks nothing.
    `watermark` is a TorchScript file with the methods `embed(images, messages)` and `detect(images)`, such as videoseal's; none is
    shipped. Its invisible message is a digest of the ClipId.
    """

    require_consent: bool = True
    use: UseConfig = UseConfig()
    revoked: tuple[str, ...] = ()
    marking: Literal["none", "try", "required"] = "none"
    label: LabelConfig | None = None
    watermark: str | None = None
    aigc: AigcConfig | None = None
    c2pa: C2paConfig | None = None

    @model_validator(mode="after")
    def _has_a_mark(self) -> Self:
        if self.is_on and not self.marks:
            rule = f"marking={self.marking}: needs at least one of label, watermark, aigc and c2pa"
            raise PydanticCustomError("broken_rule", "{rule}", {"rule": rule})
        return self

    @property
    def is_on(self) -> bool:
        return self.marking != "none"

    @property
    def marks(self) -> frozenset[str]:
        """The names of the marks that the section describes."""
        return frozenset(name for name in ("label", "watermark", "aigc", "c2pa") if getattr(self, name) is not None)

    @property
    def required_marks(self) -> frozenset[str]:
        """The marks without which no clip may be committed."""
        return self.marks if self.marking == "required" else frozenset()
