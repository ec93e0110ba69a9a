"""Files of scorers that a run file names: each is opened before a GPU is involved, and refused with its key, path and rule."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lynx_batch.config import QualityConfig, RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.preparation import scorers
from lynx_batch.preparation.package import refuse_private_paths
from lynx_batch.preparation.scorers import check_scorers
from lynx_model.errors import MissingFile, WeightsMismatch
from tests.builders import row, tiny_run, write_manifest, write_run
from tests.jobs import invoke
from tests.scorers import save_clip_model, save_vit, write_network

KEYS = ("quality.safety.opennsfw2", "quality.safety.falconsai", "quality.prompt.model")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scorers")
    made = write_network(folder / "n.onnx"), save_vit(folder / "vit", ["ok", "nsfw"]), save_clip_model(folder / "clip")
    return dict(zip(KEYS, made, strict=True))


def rules(paths: dict[str, Path]) -> dict[str, object]:
    """A run file's `quality:` that names these."""
    network, vit, prompt = (paths.get(key) and str(paths[key]) for key in KEYS)
    return {"safety": {"opennsfw2": network, "falconsai": vit}, "prompt": prompt and {"model": prompt}}


def check(paths: dict[str, Path]) -> None:
    check_scorers(QualityConfig.model_validate(rules(paths)))


def test_good_files_and_none_at_all_are_accepted(good: dict[str, Path]) -> None:
    check(good)
    check({})
    check_scorers(None)


def text(folder: Path) -> Path:
    file = folder / "text.onnx"
    file.write_text("no network", encoding="utf-8")
    return file


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_file_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=rf"^{key}='{tmp_path}/none': does not exist on this machine"):
        check({key: tmp_path / "none"})


@pytest.mark.parametrize(
    ("key", "make", "rule"),
    [
        (KEYS[0], text, "must be an ONNX network"),
        (KEYS[0], lambda folder: write_network(folder / "n.onnx", side=64), r"must take float32 \(N, 224, 224, 3\)"),
        (KEYS[0], lambda folder: write_network(folder / "n.onnx", size=3), r"must give \(N, 2\)"),
        (KEYS[1], lambda folder: folder, r"must be a folder on this machine that holds config\.json"),
        (KEYS[1], lambda folder: save_vit(folder / "v", ["cat", "dog"]), "must have a label 'nsfw'"),
        (KEYS[2], lambda folder: save_vit(folder / "v", ["ok", "nsfw"]), "quality.prompt.model="),
    ],
)
def test_a_file_of_another_kind_is_refused(key: str, make: Callable[[Path], Path], rule: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises((MissingFile, WeightsMismatch), match=rule) as refused:
        check({key: path})
    assert str(refused.value).startswith(f"{key}='{path}': ")


def test_without_the_packages_that_open_networks_the_files_must_only_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorers, "NEEDED_TO_OPEN", ("no_such_package",))
    check({KEYS[0]: text(tmp_path)})


@pytest.mark.parametrize("command", ["plan", "render"])
def test_a_command_that_would_need_the_scorer_refuses_to_start(command: str, tmp_path: Path, face_pack: Path) -> None:
    write_manifest(tmp_path / "manifest.parquet", [row()])
    file = write_run(tmp_path, face_pack, quality={"safety": {"opennsfw2": "none.onnx"}})
    result = invoke(command, file)
    told = f"quality.safety.opennsfw2='{tmp_path}/none.onnx': does not exist"
    assert (result.exit_code, told in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_scorer_in_a_folder_that_the_cluster_may_not_have_is_refused(
    tmp_path: Path, face_pack: Path, good: dict[str, Path]
) -> None:
    sections = {"quality": rules(good), "cluster": {"shared_paths": [str(good[KEYS[1]])]}}
    config = RunConfig.model_validate(tiny_run(face_pack, **sections))
    with pytest.raises(ConfigError) as refused:
        refuse_private_paths(config)
    assert [key in str(refused.value) for key in KEYS] == [True, False, True]
