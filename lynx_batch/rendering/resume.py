"""Saved sampler states of clips whose node was taken away, in the folder `resume` of the output."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.errors import MissingObject, StoreRefused, UnfitState
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import RESUME, parse_saved_clip, saved_clip_uri

if TYPE_CHECKING:
    from lynx_model.sampler import SamplerState


@dataclass(frozen=True, slots=True)
class SavedClips:
    """The saved clips of one output. `software` is that of this process: other versions may not render the same picture."""

    output: str
    software: Mapping[str, str]

    def save(self, clip: ClipSpec, state: "SamplerState") -> None:
        """Writes some tens of MB: a few times the size of the clip's latents."""
        from safetensors.torch import save

        uri = saved_clip_uri(self.output, clip.clip_id, state.num_steps_done)
        content = save(state.tensors, self._stamp(clip, state.num_steps_done))
        retry_while_unavailable(lambda: storage.write_bytes(uri, content))

    def load(self, clip: ClipSpec, num_steps_done: int) -> "SamplerState":
        """Raises UnfitState if the state is missing or unreadable, or was saved for another clip or by other software."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        from lynx_model.sampler import SamplerState

        uri = saved_clip_uri(self.output, clip.clip_id, num_steps_done)
        try:
            content = retry_while_unavailable(lambda: storage.read_bytes(uri))
            tensors, stamp = load(content), _read_stamp(content)
        except (MissingObject, StoreRefused, SafetensorError, LookupError) as error:  # LookupError: an unknown dtype
            raise UnfitState(f"{storage.redact(uri)}: {error}") from error
        if stamp != self._stamp(clip, num_steps_done):
            raise UnfitState(f"{storage.redact(uri)}: must be of this clip and of the same software")
        return SamplerState(num_steps_done, tensors)

    def _stamp(self, clip: ClipSpec, num_steps_done: int) -> dict[str, str]:
        software = json.dumps(dict(self.software), sort_keys=True)
        return {"clip_id": clip.clip_id, "num_steps_done": str(num_steps_done), "software": software}


def find_saved(output: str) -> dict[str, int]:
    """The ids of clips that can resume, with the number of steps done."""
    names = (parse_saved_clip(file.uri) for file in storage.list_files(storage.join(output, RESUME)))
    return dict(sorted(filter(None, names)))


def delete_saved(output: str, clip_id: str, num_steps_done: int) -> None:
    storage.delete(saved_clip_uri(output, clip_id, num_steps_done))


def _read_stamp(content: bytes) -> dict[str, str]:
    """The metadata of a valid safetensors file: an 8-byte length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length]).get("__metadata__", {}))
