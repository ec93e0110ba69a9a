"""Saved states of clips whose node was taken away."""

from pathlib import Path

import pytest
import torch

from lynx_batch import storage
from lynx_batch.errors import StoreRefused, StoreUnavailable, UnfitState
from lynx_batch.output import TryName, saved_clip_uri, saved_clip_uris
from lynx_batch.rendering.resume import SavedClips, delete_saved, find_saved
from lynx_model.sampler import SamplerState

OF, SEED = TryName("0a", edition=1, number=0), 7
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
    saved.save(OF, SEED, STATE)
    assert find_saved(str(tmp_path)) == {OF: 7}
    loaded = saved.load(OF, SEED, 7)
    assert loaded.num_steps_done == 7
    assert loaded.tensors["latents"].equal(STATE.tensors["latents"])
    assert not away


def test_a_state_saved_by_other_software_is_refused(tmp_path: Path) -> None:
    SavedClips(str(tmp_path), {"torch": "1"}).save(OF, SEED, STATE)
    with pytest.raises(UnfitState, match="same software"):
        SavedClips(str(tmp_path), {"torch": "2"}).load(OF, SEED, 7)


def test_an_unreadable_state_is_not_a_fault_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SavedClips(str(tmp_path), {})
    with pytest.raises(UnfitState):
        saved.load(OF, SEED, 7)

    def refuse(uri: str) -> bytes:
        raise StoreRefused(uri)

    monkeypatch.setattr(storage, "read_bytes", refuse)
    with pytest.raises(UnfitState):
        saved.load(OF, SEED, 7)


@pytest.mark.parametrize(("of", "seed"), [(OF, 8), (OF._replace(number=1), SEED), (OF._replace(edition=2), SEED)])
def test_steps_of_another_seed_or_try_are_never_taken(tmp_path: Path, of: TryName, seed: int) -> None:
    saved = SavedClips(str(tmp_path), {})
    saved.save(OF, SEED, STATE)
    storage.write_bytes(
        saved_clip_uri(str(tmp_path), of, 7), storage.read_bytes(saved_clip_uri(str(tmp_path), OF, 7))
    )  # even under the other's name
    with pytest.raises(UnfitState, match="of this try"):
        saved.load(of, seed, 7)


def test_a_state_with_a_name_of_before_is_the_first_try_of_the_first_edition(tmp_path: Path) -> None:
    from safetensors.torch import save

    _, before = saved_clip_uris(str(tmp_path), OF, 7)
    stamp = {"clip_id": "0a", "num_steps_done": "7", "software": "{}"}
    storage.write_bytes(before, save(STATE.tensors, stamp))

    assert find_saved(str(tmp_path)) == {OF: 7}
    assert SavedClips(str(tmp_path), {}).load(OF, SEED, 7).tensors["latents"].equal(STATE.tensors["latents"])
    delete_saved(str(tmp_path), OF, 7)
    assert find_saved(str(tmp_path)) == {}
