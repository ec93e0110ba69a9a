"""What a run finds out about its model and rows before Ray or a GPU is asked for anything."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from lynx_batch.config import DefaultsConfig, RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.prepare import PreparedRun, prepare_rows
from lynx_batch.preparation.selection import Selection
from lynx_model.checkpoints.adapter_spec import DECLARATION_FILE
from lynx_model.checkpoints.fingerprint import FINGERPRINT_FILE
from lynx_model.errors import InvalidParams, MissingFile, WeightsMismatch
from lynx_model.faces.identity import ARCFACE_TENSORS
from tests.builders import COLLINS
from tests.models import BASE, MODEL, TRANSFORMER

SELECTION, NOW = Selection(), datetime(2026, 7, 1, tzinfo=UTC)
PLACE = Origin(manifest="m.parquet", folder="/photos")


def make_config(
    face_pack: Path,
    *loras: object,
    base: Path = BASE,
    adapters: Path = MODEL / "lynx_full",
    identity: str = "pack",
    engine: Mapping[str, object] | None = None,
) -> RunConfig:
    return RunConfig.model_validate(
        {
            "manifest": "m.parquet",
            "output": "out",
            "model": {"base": str(base), "adapters": str(adapters), "loras": loras},
            "faces": {"pack": str(face_pack), "identity": identity},
            "engine": engine or {},
            "provenance": {"require_consent": False},
        }
    )


def write_lora(file: Path, value: float = 0.0, name: str = "transformer.proj_out.diff_b") -> str:
    save_file({name: np.full(64, value, np.float32)}, file)
    return str(file)


def test_a_model_is_identified_by_its_loras_and_their_scales(face_pack: Path, tmp_path: Path) -> None:
    first, second = (write_lora(tmp_path / f"{value}.safetensors", value) for value in (1.0, 2.0))
    choices = [(), (first,), (second,), (first, second), ({"file": first, "scale": 0.5},)]
    identities = [check_model(make_config(face_pack, *loras)).identity for loras in choices]
    assert identities[0].loras is None
    assert len({identity.loras for identity in identities}) == len(choices)

    (tmp_path / "moved").mkdir()
    moved = write_lora(tmp_path / "moved" / "renamed.safetensors", 1.0)
    assert check_model(make_config(face_pack, {"file": moved, "scale": 1})).identity == identities[1]


def test_an_alpha_that_is_declared_beside_a_lora_is_part_of_its_name(face_pack: Path, tmp_path: Path) -> None:
    module = "base_model.model.blocks.0.attn1.to_q.lora_"
    tensors = {f"{module}A.weight": np.ones((4, 96), np.float32), f"{module}B.weight": np.ones((96, 4), np.float32)}
    save_file(tensors, tmp_path / "a.safetensors")
    names = set()
    for alpha in (4, 8):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
        names.add(check_model(make_config(face_pack, str(tmp_path / "a.safetensors"))).identity.loras)
    assert len(names) == 2


def swap(file: Path) -> None:
    """Other bytes of a file's tensors, of the same size, with the same time of writing, as `cp -p` would leave them."""
    before, content = file.stat(), file.read_bytes()
    other = file.with_name("other")
    other.write_bytes(content[:-4] + content[-4:][::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("base", "vae/diffusion_pytorch_model.safetensors"),
        ("id_adapter", "ip_layers.safetensors"),
        ("ref_adapter", "ref_layers.safetensors"),
        ("face_pack", "rec_sface512.onnx"),
        ("identity_encoder", "arcface.pth"),
        ("loras", "lora.safetensors"),
    ],
)
def test_weights_that_are_swapped_with_their_time_kept_give_clips_another_name(
    face_pack: Path, tmp_path: Path, part: str, name: str
) -> None:
    copy = partial(shutil.copytree, ignore=shutil.ignore_patterns(FINGERPRINT_FILE))
    base, full = copy(BASE, tmp_path / "base"), copy(MODEL / "lynx_full", tmp_path / "full")
    pack = copy(face_pack, tmp_path / "pack")
    folder = {"base": base, "face_pack": pack}.get(part, full)
    identity = "pack"
    if part == "identity_encoder":
        (tmp_path / "arcface").mkdir()
        folder, identity = tmp_path / "arcface", str(tmp_path / "arcface" / name)
        Path(identity).write_bytes(" ".join(ARCFACE_TENSORS).encode() + b"1234")
        (full / DECLARATION_FILE).unlink()
    lora = write_lora(tmp_path / "lora.safetensors", 1.5)
    config = make_config(pack, lora, base=base, adapters=full, identity=identity)
    before = check_model(config).identity
    assert check_model(config).identity == before

    swap((tmp_path if part == "loras" else folder) / name)

    after = check_model(config).identity
    assert getattr(after, part) != getattr(before, part)
    assert check_model(config).identity == after


def test_a_lora_that_does_not_fit_is_told_before_anything_starts(face_pack: Path, tmp_path: Path) -> None:
    surplus = write_lora(tmp_path / "a.safetensors", name="transformer.nothing.diff_b")
    with pytest.raises(WeightsMismatch, match=r"a\.safetensors: tensor transformer\.nothing\.diff_b"):
        check_model(make_config(face_pack, surplus))
    with pytest.raises(MissingFile, match="nowhere"):
        check_model(make_config(face_pack, str(tmp_path / "nowhere.safetensors")))


def without_index_map(folder: Path) -> None:
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda base: (base / TRANSFORMER).unlink(),
            "transformer: must hold",
        ),
        (lambda base: shutil.rmtree(base / "tokenizer"), "must hold tokenizer/tokenizer.json, as"),
        (lambda base: shutil.rmtree(base / "scheduler"), "scheduler_config.json: no such file"),
        (without_index_map, "weight_map=None: must name the file of each tensor"),
        (lambda base: (base / "transformer_2").mkdir(), "transformer_2: must not be there"),
    ],
    ids=["weights", "tokenizer", "scheduler", "index", "second transformer"],
)
def test_a_base_that_is_not_complete_is_refused_and_gets_no_fingerprint(
    face_pack: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    base = shutil.copytree(BASE, tmp_path / "base", ignore=shutil.ignore_patterns(FINGERPRINT_FILE))
    damage(base)
    with pytest.raises((MissingFile, WeightsMismatch), match=message):
        check_model(make_config(face_pack, base=base))
    assert not (base / FINGERPRINT_FILE).exists()


def test_adapters_of_another_base_are_refused(face_pack: Path, tmp_path: Path) -> None:
    base = shutil.copytree(BASE, tmp_path / "base", ignore=shutil.ignore_patterns(FINGERPRINT_FILE))
    config = base / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_attention_heads": 8}))
    with pytest.raises(WeightsMismatch, match="made for 96 channels, but the base model has 192"):
        check_model(make_config(face_pack, base=base))


def test_a_file_that_is_no_arcface_network_is_refused(face_pack: Path, tmp_path: Path) -> None:
    without_records = shutil.ignore_patterns(DECLARATION_FILE, FINGERPRINT_FILE)
    adapters = shutil.copytree(MODEL / "lynx_full", tmp_path / "full", ignore=without_records)
    file = tmp_path / "arcface.pth"
    config = make_config(face_pack, adapters=adapters, identity=str(file))
    with pytest.raises(MissingFile, match="lynx-batch models pull arcface"):
        check_model(config)
    file.write_bytes(b"weights")
    with pytest.raises(WeightsMismatch, match=r"arcface\.pth: must be a PyTorch file of an ArcFace"):
        check_model(config)


def test_edge_blocks_must_leave_some_of_the_runs_model_in_fp8(face_pack: Path) -> None:
    with pytest.raises(InvalidParams, match=r"num_bf16_edge_blocks=2: must leave some of the model's 4 blocks"):
        check_model(make_config(face_pack, engine={"precision": "fp8", "num_bf16_edge_blocks": 2}))


def test_a_range_of_blocks_beyond_the_model_is_told_with_its_row(face_pack: Path) -> None:
    rows = pa.table({"row": [0, 1], "subject_uri": ["a", "a"], "prompt": ["x", "y"], "ip_blocks": [None, "0-4"]})
    with pytest.raises(ConfigError, match=r"row 1: ip_blocks='0-4': must lie within the model's blocks, 0-3"):
        prepare_rows(make_config(face_pack), rows, PLACE, SELECTION, NOW)


def test_bad_rows_are_reported_before_the_adapters_are_read(face_pack: Path, tmp_path: Path) -> None:
    rows = pa.table({"row": [0], "subject_uri": ["a"], "prompt": ["x"], "width": [99]})
    config = make_config(face_pack, adapters=str(tmp_path))
    with pytest.raises(ConfigError, match=r"row 0: width=99: must be a positive multiple of 16 px"):
        prepare_rows(config, rows, PLACE, SELECTION, NOW)


def test_a_rows_flow_shift_names_the_clip_as_the_same_default_does(face_pack: Path) -> None:
    shifts = pa.array([None, 4.0, 5.0], pa.float64())
    photos = [str(COLLINS)] * 3
    rows = pa.table({"row": range(3), "subject_uri": photos, "prompt": ["waves"] * 3, "flow_shift": shifts})
    config = make_config(face_pack).model_copy(update={"defaults": DefaultsConfig(**{"flow_shift": 4.0})})
    prepared = prepare_rows(config, rows, PLACE, Selection(allow_duplicates=True), NOW)
    by_default, same, other = (clip.clip_id for clip in prepared.clips)
    assert by_default == same != other


def prepare_prompts(
    face_pack: Path, *prompts: str, selection: Selection = SELECTION, **defaults: object
) -> PreparedRun:
    rows = pa.table({"row": range(len(prompts)), "subject_uri": [str(COLLINS)] * len(prompts), "prompt": prompts})
    config = make_config(face_pack)
    defaulted = config.model_copy(update={"defaults": DefaultsConfig(**defaults)})
    return prepare_rows(defaulted, rows, PLACE, selection, NOW)


def test_a_prompt_that_is_too_long_is_refused_or_rejected_or_cut(face_pack: Path) -> None:
    long = "a " * 600
    with pytest.raises(ConfigError, match=r"row 1: prompt='a a .*has 601 tokens, and the model reads at most 512"):
        prepare_prompts(face_pack, "a", long)
    (rejection,) = prepare_prompts(face_pack, "a", long, selection=Selection(allow_invalid=True)).rejections
    assert (rejection.row, rejection.error_type) == (1, "InvalidRow")
    with pytest.raises(ConfigError, match=r"row 2: .*must not ask for the same clip as row 1"):
        prepare_prompts(face_pack, "a", long, f"{long} but longer", truncate_prompts=True)


def test_prompts_that_are_cleaned_to_the_same_text_ask_for_the_same_clip(face_pack: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 1: .*must not ask for the same clip as row 0"):
        prepare_prompts(face_pack, "a cafe\u0301", " a caf\u00e9 ")


def test_a_lora_of_scale_zero_is_no_part_of_the_name(face_pack: Path, tmp_path: Path) -> None:
    first, second = (write_lora(tmp_path / f"{value}.safetensors", value) for value in (1.0, 2.0))
    off = {"file": first, "scale": 0}
    assert check_model(make_config(face_pack, off)).identity == check_model(make_config(face_pack)).identity
    assert (
        check_model(make_config(face_pack, off, second)).identity
        == check_model(make_config(face_pack, second)).identity
    )
