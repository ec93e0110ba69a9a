"""Saved sampler states of clips whose node was taken away, in the folder `resume` of the output. Each belongs to one try."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lynx_batch import storage
from lynx_batch.errors import MissingObject, StoreRefused, UnfitState
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import RESUME, TryName, parse_saved_clip, saved_clip_uri, saved_clip_uris

if TYPE_CHECKING:
    from lynx_model.sampler import SamplerState

FIRST_STAMP = ("clip_id", "num_steps_done", "software")
"""What states were stamped with before clips had several tries."""


@dataclass(frozen=True, slots=True)
class SavedClips:
    """The saved clips of one output. `software` is that of this process: other versions may not render the same picture."""

    output: str
    software: Mapping[str, str]

    def save(self, of: TryName, seed: int, state: "SamplerState") -> None:
        """Writes some tens of MB: a few times the size of the clip's latents."""
        from safetensors.torch import save

        uri = saved_clip_uri(self.output, of, state.num_steps_done)
        content = save(state.tensors, self._stamp(of, seed, state.num_steps_done))
        retry_while_unavailable(lambda: storage.write_bytes(uri, content))

    def load(self, of: TryName, seed: int, num_steps_done: int) -> "SamplerState":
        """Raises UnfitState if the state is missing or unreadable, or was saved for another try or by other software."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        from lynx_model.sampler import SamplerState

        uri = saved_clip_uri(self.output, of, num_steps_done)
        try:
            content = retry_while_unavailable(lambda: self._read(of, num_steps_done))
            tensors, stamp = load(content), _read_stamp(content)
        except (MissingObject, StoreRefused, SafetensorError, LookupError) as error:  # LookupError: an unknown dtype
            raise UnfitState(f"{storage.redact(uri)}: {error}") from error
        expected = self._stamp(of, seed, num_steps_done)
        if stamp != {key: expected[key] for key in (expected if "seed" in stamp else FIRST_STAMP)}:
            raise UnfitState(f"{storage.redact(uri)}: must be of this try and of the same software")
        return SamplerState(num_steps_done, tensors)

    def _read(self, of: TryName, num_steps_done: int) -> bytes:
        """Under its present name or, for the first try of a clip, under the name that states had before."""
        *others, last = saved_clip_uris(self.output, of, num_steps_done)
        for uri in others:
            try:
                return storage.read_bytes(uri)
            except MissingObject:
                continue
        return storage.read_bytes(last)

    def _stamp(self, of: TryName, seed: int, num_steps_done: int) -> dict[str, str]:
        return {
            "clip_id": of.clip_id,
            "edition": str(of.edition),
            "number": str(of.number),
            "seed": str(seed),
            "num_steps_done": str(num_steps_done),
            "software": json.dumps(dict(self.software), sort_keys=True),
        }


def find_saved(output: str) -> dict[TryName, int]:
    """The tries that can resume, with the number of steps done."""
    names = (parse_saved_clip(file.uri) for file in storage.list_files(storage.join(output, RESUME)))
    return {name.of: name.num_steps_done for name in sorted(filter(None, names))}


def delete_saved(output: str, of: TryName, num_steps_done: int) -> None:
    for uri in saved_clip_uris(output, of, num_steps_done):
        storage.delete(uri)


def _read_stamp(content: bytes) -> dict[str, str]:
    """The metadata of a valid safetensors file: an 8-byte length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return dict(json.loads(content[8 : 8 + length]).get("__metadata__", {}))
