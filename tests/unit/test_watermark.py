"""An invisible watermark of any TorchScript network: a real one with three lines, since none is shipped."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from lynx_batch.config import ProvenanceConfig, VideoConfig
from lynx_batch.delivery.deliver import finish, upload
from lynx_batch.delivery.inspect import find_faults
from lynx_batch.delivery.marker import message_of
from lynx_batch.delivery.video import decode_mp4
from lynx_batch.errors import NotMarked
from lynx_batch.preparation.marks import check_marks
from lynx_batch.rendering.marking import load_marker
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.spec import RenderParams
from lynx_model.watermark import TorchScriptWatermark
from tests.builders import IDENTITY, make_clip, make_request
from tests.watermarks import NUM_BITS, write_network

PARAMS = RenderParams(prompt="p", width=128, height=96, num_frames=9, seed=1)


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:96, 0:128]
    moving = [np.stack([rows + number, columns, columns], axis=-1) for number in range(9)]
    return np.stack(moving).astype(np.uint8) + 40


def test_the_message_survives_the_encoder_and_is_a_digest_of_the_clip_id(
    frames: NDArray[np.uint8], tmp_path: Path
) -> None:
    config = ProvenanceConfig(marking="required", watermark=write_network(tmp_path / "mark.jit", 0.06))
    check_marks(config, [])
    marker = load_marker(config)
    clip = make_clip("ab12", make_request(PARAMS), photo_sha256="1")
    marked = finish(frames, clip, PARAMS, identity=IDENTITY, video=VideoConfig(), marker=marker)
    assert marked.marks == ("watermark", "tags")
    network = TorchScriptWatermark.load((tmp_path / "mark.jit").read_bytes(), name="mark")
    assert network.num_bits == NUM_BITS
    found = network.read(decode_mp4(marked.video))
    assert np.array_equal(found, message_of("ab12", NUM_BITS))
    assert not np.array_equal(found, message_of("ab13", NUM_BITS))


def test_verification_reads_the_watermark_with_its_network(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    marker = load_marker(ProvenanceConfig(marking="required", watermark=write_network(tmp_path / "mark.jit", 0.06)))
    clip = make_clip("ab12", make_request(PARAMS), photo_sha256="1")
    marked = finish(frames, clip, PARAMS, identity=IDENTITY, video=VideoConfig(tags="none"), marker=marker)
    stored = marked.stored_as("ab12", "run-1a")
    upload(marked, stored, output=str(tmp_path))

    assert find_faults(str(tmp_path), "ab12", stored, marker) == []
    assert find_faults(str(tmp_path), "ab13", stored) == [], "not read without the network"
    (fault,) = find_faults(str(tmp_path), "ab13", stored, marker)
    assert fault.startswith("watermark: ")
    assert "of the bits can be read from the video" in fault


def test_a_watermark_that_the_encoder_destroys_counts_as_failed(frames: NDArray[np.uint8], tmp_path: Path) -> None:
    watermark = write_network(tmp_path / "weak.jit", 0.0)
    clip = make_clip("ab12", make_request(PARAMS), photo_sha256="1")

    def mark(marking: str) -> dict[str, str]:
        marker = load_marker(ProvenanceConfig(marking=marking, watermark=watermark))
        done = finish(frames, clip, PARAMS, identity=IDENTITY, video=VideoConfig(), marker=marker)
        return dict(done.failed_marks)

    assert "of the bits can be read from the video: must be at least 90%" in mark("try")["watermark"]
    with pytest.raises(NotMarked, match=r"watermark: .* of the bits"):
        mark("required")


def test_a_file_that_is_no_such_network_is_refused(tmp_path: Path) -> None:
    absent = ProvenanceConfig(marking="try", watermark=str(tmp_path / "no.jit"))
    with pytest.raises(MissingFile, match=r"provenance\.watermark=.*no\.jit.*does not exist"):
        check_marks(absent, [])
    (tmp_path / "text.jit").write_bytes(b"no network")
    with pytest.raises(WeightsMismatch, match=r"text\.jit.*must be a TorchScript module with embed"):
        check_marks(ProvenanceConfig(marking="try", watermark=str(tmp_path / "text.jit")), [])
    check_marks(ProvenanceConfig(watermark=str(tmp_path / "text.jit")), [])  # marks nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(nn.Identity()).save(str(tmp_path / "other.jit"))
    with pytest.raises(WeightsMismatch, match=r"other\.jit.*must be a TorchScript module with embed"):
        load_marker(ProvenanceConfig(marking="try", watermark=str(tmp_path / "other.jit")))
