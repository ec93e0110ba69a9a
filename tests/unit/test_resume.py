"""Saved states of clips whose node was taken away."""

from pathlib import Path

import pytest
import torch

from lynx_batch import storage
from lynx_batch.errors import StoreRefused, StoreUnavailable, UnfitState
from lynx_batch.rendering.resume import SavedClips, find_saved
from lynx_model.sampler import SamplerState
from tests.builders import clip

CLIP = clip("0a")
STATE = SamplerState(7, {"latents": torch.arange(4.0)})


def test_a_clip_resumes_from_its_saved_state_although_the_store_was_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [StoreUnavailable("away"), StoreUnavailable("away")]
    write, read = storage.write_bytes, storage.read_bytes

    def write_unless_away(uri: str, content: bytes) -> None:
        if len(away) > 1:
            raise away.pop()
        write(uri, content)

    def read_unless_away(uri: str) -> bytes:
        if away:
            raise away.pop()
        return read(uri)

    monkeypatch.setattr(storage, "write_bytes", write_unless_away)
    monkeypatch.setattr(storage, "read_bytes", read_unless_away)
    saved = SavedClips(str(tmp_path), {"torch": "2"})
    saved.save(CLIP, STATE)
    assert find_saved(str(tmp_path)) == {"0a": 7}
    loaded = saved.load(CLIP, 7)
    assert loaded.num_steps_done == 7
    assert loaded.tensors["latents"].equal(STATE.tensors["latents"])
    assert not away


def test_a_state_saved_by_other_software_is_refused(tmp_path: Path) -> None:
    SavedClips(str(tmp_path), {"torch": "1"}).save(CLIP, STATE)
    with pytest.raises(UnfitState, match="same software"):
        SavedClips(str(tmp_path), {"torch": "2"}).load(CLIP, 7)


def test_an_unreadable_state_is_not_a_fault_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SavedClips(str(tmp_path), {})
    with pytest.raises(UnfitState):
        saved.load(CLIP, 7)

    def refuse(uri: str) -> bytes:
        raise StoreRefused(uri)

    monkeypatch.setattr(storage, "read_bytes", refuse)
    with pytest.raises(UnfitState):
        saved.load(CLIP, 7)
