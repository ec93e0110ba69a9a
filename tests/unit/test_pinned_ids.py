"""The names of a dozen clips of the tiny model: a change of any of them makes every user's clips be rendered again."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lynx_batch.config import RunConfig
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.prepare import prepare_rows
from lynx_batch.preparation.selection import Selection
from tests.builders import SUBJECTS, tiny_run
from tests.models import BASE, MODEL

ROWS: list[dict[str, object]] = [
    {"prompt": "A person waves."},
    {"prompt": "A person waves.", "seed": 7},
    {"prompt": "A person  waves. "},
    {"prompt": "Ｈe smiles，看向镜头。"},
    {"prompt": "A person waves.", "negative_prompt": "blurred"},
    {"prompt": "A person waves.", "width": 96, "height": 64, "num_frames": 9, "fps": 24},
    {"prompt": "A person waves.", "num_inference_steps": 3, "guidance_until": 0.5},
    {"prompt": "A person waves.", "guidance_scale": 1.0, "negative_prompt": "not read"},
    {"prompt": "A person waves.", "guidance_scale": 4.5, "guidance_scale_image": 1.5},
    {"prompt": "A person waves.", "ip_scale": 0.7, "ip_end": 0.5, "ip_blocks": "0-0"},
    {"prompt": "A person waves.", "ref_scale": 0.0, "ref_start": 0.25},
    {"prompt": "A person waves.", "face_index": 0, "priority": 5, "clip_name": "a", "subject_id": "b"},
]
IDS = {
    "lynx_full": [
        "be3e297361b8340e1e7cdefcd4c6722d",
        "4ee8b976f8d2b7511fdef102834219ab",
        "be3e297361b8340e1e7cdefcd4c6722d",
        "3a0484c78523a34ef7ef56a85293d3be",
        "42794d1b52c34e628f14ee4690b979f1",
        "e3c5b20ceb2b959e281c37fc76658714",
        "300b890cd8dc3b5f78f9aad0b1cf8e41",
        "c1cc2a83d0d9b2548d095179e305730f",
        "484bce4f4a25a42a5fd703b4c4a94e9c",
        "ceeded5a045d4b0da3290b8f0a17e514",
        "10725cc5f6b09d22ff8b75d2f3b667ca",
        "581f66e41f641d21b2dc27e2f108c9ba",
    ],
    "lynx_lite": [
        "a219e76a6d53426d93d4364c668ec40e",
        "83730b4cb08ed38322c7c214464d307d",
        "a219e76a6d53426d93d4364c668ec40e",
        "62096ca19af700e1183b90c36652c7ae",
        "e846fb8d3d114f667e6cc6a907972cd8",
        "f69e2bee7cf06d07964655c56241ed37",
        "78eaeffc11edfbcb6cbb655608f40370",
        "c7c2790ea51a28321f0eb959f73b6943",
        "8871011643798d2cea16553b8f216192",
        "dd4c270ac1d5dae0c3968f674c8ae75a",
        "a219e76a6d53426d93d4364c668ec40e",
        "c24c7988d2287fa9d98c8f2a5e8f4da8",
    ],
}


def name_clips(face_pack: Path, adapters: str) -> list[str]:
    run = tiny_run(
        face_pack,
        model={"base": str(BASE), "adapters": str(MODEL / adapters)},
        engine={"precision": "float32"},
        defaults={"width": 64, "height": 48, "num_frames": 5, "num_inference_steps": 2},
    )
    photos = ["eileen-collins.jpg", "grace-hopper.jpg"]
    rows = [{"row": row, "subject_uri": photos[row % 2], **cells} for row, cells in enumerate(ROWS)]
    manifest = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA.insert(0, pa.field("row", pa.int64())))
    place = Origin(manifest="m.parquet", folder=str(SUBJECTS))
    config = RunConfig.model_validate(run)
    prepared = prepare_rows(
        config,
        manifest,
        place,
        Selection(allow_duplicates=True),
        datetime(2026, 7, 1, tzinfo=UTC),
    )
    assert not prepared.rejections
    return [clip.clip_id for clip in prepared.clips]


@pytest.mark.parametrize("adapters", ["lynx_full", "lynx_lite"])
def test_clips_keep_their_names(face_pack: Path, adapters: str) -> None:
    assert name_clips(face_pack, adapters) == IDS[adapters]
