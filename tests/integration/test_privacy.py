"""What a run with failures leaves behind says nothing that it must not."""

import gzip
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynx_batch import storage
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from tests.builders import COLLINS, HOPPER, row
from tests.jobs import Job
from tests.web import serve

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECRET = "s3cr3t-of-a-signed-url"
WRITTEN = {
    "clip_name": "birthday-greeting-of-x1",
    "subject_id": "person-x1",
    "tags": [("segment", "tag-value-x1")],
    "prompt": "A person waves from a boat called x1.",
}
"""What a user writes about a person."""

KNOWN_PLACES = re.compile(
    r"/(metadata/run=[^/]+/part-\d+\.parquet|runs/[^/]+/(manifest|clips)\.parquet|report/run=[^/]+/index\.html)$"
)
"""Where that may be; besides, in the videos themselves."""

NUM_BYTES = 48
"""So many bytes of a photo, a crop or an embedding do not occur elsewhere by chance."""


def samples(content: bytes) -> Iterator[bytes]:
    """Some bytes from many places of `content`, headers left out, that are not all alike."""
    for start in range(1000, len(content) - NUM_BYTES, 997):
        sample = content[start : start + NUM_BYTES]
        if len(set(sample)) > NUM_BYTES // 3:
            yield sample


def biometric(face_pack: Path, photo: Path) -> list[bytes]:
    """Pieces of a photo's bytes, of its aligned crop, and of its embedding: as numbers and as text."""
    content = photo.read_bytes()
    subject = FaceReader.load(str(face_pack), "pack").read(read_photo(content), None)
    numbers = subject.face_embedding
    texts = [f"{number:.6f}".rstrip("0").encode() for number in numbers[:8]]
    crop = subject.aligned_face.tobytes()
    return [*samples(content), *list(samples(crop))[:50], numbers[:12].tobytes(), b", ".join(texts[:3]), texts[0]]


def test_nothing_that_a_run_leaves_behind_tells_what_it_must_not(face_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(COLLINS.read_bytes()[:2000])
    with serve() as server:
        signed = server.put("/a.jpg", HOPPER.read_bytes()) + f"?X-Amz-Signature={SECRET}"
        gone = f"{server.url}/gone.jpg?X-Amz-Signature={SECRET}"
        rows = [
            row(COLLINS, **WRITTEN),
            row(signed, **{**WRITTEN, "clip_name": "second-x1"}),
            row(gone, **{**WRITTEN, "clip_name": "third-x1"}),
            row(tmp_path / "broken.jpg", **{**WRITTEN, "clip_name": "fourth-x1"}),
        ]
        job = Job(
            folder=tmp_path,
            face_pack=face_pack,
            rows=[{name: cell for name, cell in each.items() if name != "tags"} for each in rows],
            settings={"inputs": {"allow": ["/", server.url], "max_tries": 1}},
            env={"AWS_SECRET_ACCESS_KEY": SECRET, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        )
        schema = pa.schema([field for field in MANIFEST_SCHEMA if field.name in rows[0]])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "manifest.parquet")
        result = job.run("--allow-missing-consent")
    assert result.exit_code == 3, result.stderr
    assert sorted(str(told["outcome"]) for told in job.metadata()) == ["rejected"] * 2 + ["rendered"] * 2

    left = {str(file): file.read_bytes() for file in Path(job.output).rglob("*") if file.is_file()}
    left |= {str(file): file.read_bytes() for file in (tmp_path / "cache").rglob("*.json")}
    left |= {"stdout": result.stdout.encode(), "stderr": result.stderr.encode()}
    for name, content in list(left.items()):
        if name.endswith(".parquet"):  # columns are compressed
            left[f"{name}, decoded"] = str(pq.read_table(io.BytesIO(content), partitioning=None).to_pylist()).encode()
        if name.endswith(".gz"):
            left[f"{name}, unpacked"] = gzip.decompress(content)
    assert any(b"attempt_started" in content for content in left.values()), "logs are among what is searched"
    folders = {name.removeprefix(job.output).split("/")[1] for name in left if name.startswith(job.output)}
    assert folders == {"clips", "commits", "events", "metadata", "report", "runs"}

    for name, content in left.items():
        assert SECRET.encode() not in content, name
        if not KNOWN_PLACES.search(name.removesuffix(", decoded")) and "/clips/" not in name:
            assert b"x1" not in re.sub(rb"0x1", b"", content), name
    known = b"".join(content for name, content in left.items() if name.endswith("decoded"))
    assert b"tag-value-x1" in known, "it was searched for in the right form"
    everything = b"\n".join(left.values())
    for photo in (COLLINS, HOPPER):
        pieces = biometric(face_pack, photo)
        assert len(pieces) > 50
        assert [piece for piece in pieces if piece in everything] == []
        assert hashlib.sha256(photo.read_bytes()).hexdigest().encode() in everything
    commits = [storage.read_bytes(file.uri) for file in storage.list_files(os.path.join(job.output, "commits"))]
    assert all(b'"allows_missing_consent":true' in content for content in commits)
