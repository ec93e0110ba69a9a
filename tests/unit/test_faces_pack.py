import json
from pathlib import Path

import pytest

from lynx_model.errors import MissingFile
from lynx_model.faces.pack import find_pack


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder, and a home without insightface's models."""
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "models"


def make_pack(folder: Path, note: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "det.onnx").touch()
    if note is not None:
        (folder / "lynx-pack.json").write_text(note)
    return folder


def test_a_pack_is_found_by_name_below_the_models_folder(models: Path) -> None:
    note = json.dumps({"name": "mine", "identity_encoder": "mine-512", "licence": "MIT"})
    folder = make_pack(models / "faces" / "ours", note)
    pack = find_pack("ours")
    assert (pack.folder, pack.name, pack.identity_encoder, pack.licence) == (folder, "mine", "mine-512", "MIT")


def test_a_pack_is_found_by_its_folder(models: Path, tmp_path: Path) -> None:
    folder = make_pack(tmp_path / "elsewhere")
    assert find_pack(str(folder)).folder == folder


def test_insightfaces_own_packs_are_found_and_labelled_non_commercial(models: Path) -> None:
    make_pack(Path.home() / ".insightface" / "models" / "buffalo_l")
    pack = find_pack("buffalo_l")
    assert pack.identity_encoder == "insightface-buffalo_l"
    assert pack.licence == "non-commercial research only"


def test_the_missing_free_pack_says_how_to_build_it(models: Path) -> None:
    with pytest.raises(MissingFile, match=r"face pack 'free': .*lynx-batch models build-free-faces"):
        find_pack("free")


def test_another_missing_pack_says_where_to_put_it_and_what_its_licence_is(models: Path) -> None:
    with pytest.raises(MissingFile, match="antelopev2") as caught:
        find_pack("antelopev2")
    assert str(models / "faces" / "antelopev2") in str(caught.value)
    assert "non-commercial research only" in str(caught.value)


def test_a_pack_that_was_unpacked_a_folder_too_deep_is_refused(models: Path) -> None:
    make_pack(models / "faces" / "antelopev2" / "antelopev2")
    with pytest.raises(MissingFile, match="not in a folder below"):
        find_pack("antelopev2")


@pytest.mark.parametrize("note", ["", "[]", '{"name": "mine"}', '{"name": "x", "surplus": 1}'])
def test_a_broken_description_is_refused(models: Path, note: str) -> None:
    make_pack(models / "faces" / "ours", note)
    with pytest.raises(MissingFile, match=r"lynx-pack\.json must give name, identity_encoder and licence"):
        find_pack("ours")
