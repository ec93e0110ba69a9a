"""The text keys of an MP4: which clip it is, and `AIGC`, the mark that GB 45438-2025 requires."""

import json
from collections.abc import Iterator, Mapping
from typing import Literal

from lynx_batch.clip import ClipSpec, canonical_json
from lynx_batch.config import AigcConfig
from lynx_model.spec import RenderParams

CLIP_ID, AIGC = "ClipId", "AIGC"

IS_MADE_BY_AI = "1"
"""The value of `Label`. Source: GB 45438-2025, appendix E: 1 is, 2 may be, 3 is suspected to be made by AI."""


def tags_of(clip: ClipSpec, params: RenderParams, which: Literal["id", "none", "all"]) -> dict[str, str]:
    """The tags that `video.tags` asks for. Only `all` includes what the user wrote."""
    if which == "none":
        return {}
    if which == "id":
        return {CLIP_ID: clip.clip_id, "title": f"Clip {clip.clip_id}"}
    return {CLIP_ID: clip.clip_id, "title": clip.name, "prompt": params.prompt, "seed": str(params.seed)}


def aigc_tag(config: AigcConfig, clip_id: str) -> dict[str, str]:
    """The key `AIGC` with its JSON. The reserved codes stay empty: the C2PA signature protects the file."""
    fields = {
        "Label": IS_MADE_BY_AI,
        "ContentProducer": config.content_producer,
        "ProduceID": clip_id,
        "ReservedCode1": "",
        "ContentPropagator": config.content_propagator,
        "PropagateID": config.propagate_id,
        "ReservedCode2": "",
    }
    return {AIGC: canonical_json(fields).decode()}


def find_tag_faults(tags: Mapping[str, str], clip_id: str) -> Iterator[str]:
    """What is wrong with the ClipId among the tags."""
    if tags.get(CLIP_ID) != clip_id:
        yield f"tag {CLIP_ID}={tags.get(CLIP_ID)!r}: must be {clip_id}"


def find_aigc_faults(tags: Mapping[str, str], clip_id: str) -> Iterator[str]:
    """What is wrong with the key `AIGC` among the tags."""
    try:
        fields = json.loads(tags.get(AIGC, ""))
        label, produced, producer = (fields[name] for name in ("Label", "ProduceID", "ContentProducer"))
    except (ValueError, KeyError, TypeError):
        yield f"tag {AIGC}={tags.get(AIGC)!r}: must be JSON with Label, ContentProducer and ProduceID"
        return
    if (label, produced) != (IS_MADE_BY_AI, clip_id) or not producer:
        yield f"tag {AIGC}={tags[AIGC]!r}: Label must be {IS_MADE_BY_AI!r}, and ProduceID {clip_id!r}"
