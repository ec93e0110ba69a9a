"""`export --format webdataset`: shards that training reads, of bounded size, that grow and survive an interruption."""

import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from lynx_batch import storage
from lynx_batch.ledger import shards
from lynx_batch.ledger.export_list import WrittenFile
from lynx_batch.ledger.shards import DETAILS_BYTES, plan_shards
from tests.builders import record
from tests.exports import Place, publish, rendered

# webdataset leaves it to the garbage collector to close the shards that it read
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)

IDS = [f"{number:02x}{number:02x}" for number in range(16, 26)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Ten clips."""
    place = Place(str(tmp_path / "out"))
    place.run(
        "run", [rendered(clip_id, row, prompt=f"Wave {row}.", tags={"n": str(row)}) for row, clip_id in enumerate(IDS)]
    )
    return place


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clips of some bytes fill a megabyte."""
    monkeypatch.setattr(shards, "DETAILS_BYTES", 300_000)


def export(place: Place, folder: Path) -> str:
    result = place.export(folder, None, "--format", "webdataset", "--shard-mb", "1")
    assert result.exit_code == 0, result.stdout
    return result.stdout


def read(folder: Path) -> dict[str, tuple[bytes, dict[str, object]]]:
    """Every sample of a dataset, as a training loop gets it."""
    files = [str(file) for file in sorted(folder.glob("shard-*.tar"))]
    samples = webdataset.WebDataset(files, shardshuffle=False)
    return {sample["__key__"]: (sample["mp4"], json.loads(sample["json"])) for sample in samples}


def times(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.tar")}


def test_a_webdataset_has_every_clip_once_with_its_metadata(place: Place, tmp_path: Path) -> None:
    told = export(place, tmp_path / "set")
    assert "10 clips, 4 shards written" in told
    samples = read(tmp_path / "set")
    assert [*samples] == IDS
    video, described = samples["1212"]
    assert video == b"1212 1"
    assert described.items() >= {"prompt": "Wave 2.", "tags": {"n": "2"}, "width": 64, "seed": 1}.items()
    assert "clip_uri" not in described
    for file in (tmp_path / "set").glob("*.tar"):
        with tarfile.open(file) as tar:
            assert len(tar.getnames()) <= 6


def test_several_photos_of_a_person_are_a_list(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "out"))
    photos = ["https://host/1.jpg", "https://host/2.jpg"]
    place.run("run", [rendered("aa11", subject_uris=photos)])
    export(place, tmp_path / "set")
    _, described = read(tmp_path / "set")["aa11"]
    assert described["subject_uris"] == photos


def test_an_interrupted_export_goes_on_where_it_stopped(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, num_done = storage.upload, []

    def dying(file: Path, uri: str) -> None:
        if len(num_done) == 2:
            raise KeyboardInterrupt
        num_done.append(uri)
        upload(file, uri)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", dying)  # the only moment between the list and the shard
        result = place.export(tmp_path / "set", None, "--format", "webdataset", "--shard-mb", "1")
    assert result.exit_code == 4
    before = times(tmp_path / "set")
    assert [*sorted(before)] == ["shard-000000.tar", "shard-000001.tar"]
    assert "10 clips, 2 shards written" in export(place, tmp_path / "set")
    assert before.items() <= times(tmp_path / "set").items()
    assert [*read(tmp_path / "set")] == IDS
    whole = times(tmp_path / "set")
    assert "10 clips, 0 shards written" in export(place, tmp_path / "set")
    assert times(tmp_path / "set") == whole


def test_an_interruption_while_a_shard_is_replaced_does_no_harm(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(place, tmp_path / "set")
    publish(place.output, IDS[4], edition=2)

    def dying(file: Path, uri: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", dying)
        assert place.export(tmp_path / "set", None, "--format", "webdataset", "--shard-mb", "1").exit_code == 4
    export(place, tmp_path / "set")
    samples = read(tmp_path / "set")
    assert sorted(samples) == IDS
    assert samples[IDS[4]][0] == f"{IDS[4]} 2".encode()


def test_new_clips_get_new_shards_and_a_new_edition_replaces_the_old_one(place: Place, tmp_path: Path) -> None:
    export(place, tmp_path / "set")
    before = times(tmp_path / "set")
    place.run("later", [rendered("0101", 99, prompt="Sit.")], is_whole=False)
    publish(place.output, IDS[4], edition=2)
    assert "11 clips, 2 shards written" in export(place, tmp_path / "set")
    after = times(tmp_path / "set")
    assert {name for name in after if after[name] != before.get(name)} == {"shard-000001.tar", "shard-000004.tar"}
    samples = read(tmp_path / "set")
    assert {key: video for key, (video, _) in samples.items()} == {
        key: f"{key} {2 if key == IDS[4] else 1}".encode() for key in [*IDS, "0101"]
    }


def test_a_shard_that_was_removed_is_written_again_and_another_file_is_kept(place: Place, tmp_path: Path) -> None:
    export(place, tmp_path / "set")
    (tmp_path / "set" / "shard-000001.tar").unlink()
    assert "10 clips, 1 shard written" in export(place, tmp_path / "set")
    (tmp_path / "set" / "shard-000001.tar").write_bytes(b"my own")
    refused = place.export(tmp_path / "set", None, "--format", "webdataset", "--shard-mb", "1")
    assert (refused.exit_code, "shard-000001.tar: must be free" in refused.stderr) == (2, True)


def test_a_damaged_video_is_left_out_and_named(place: Place, tmp_path: Path) -> None:
    Path(place.output, record(IDS[0]).clip_uri).write_bytes(b"?")
    result = place.export(tmp_path / "set", None, "--format", "webdataset")
    assert (result.exit_code, f"  {IDS[0]}: " in result.stdout) == (3, True)
    assert [*read(tmp_path / "set")] == IDS[1:]


def test_shards_are_bounded_and_a_large_clip_is_alone() -> None:
    clips = [record(clip_id).model_copy(update={"num_bytes": n}) for clip_id, n in zip(IDS, (1, 1, 9, 1), strict=False)]
    limit = 2 * shards.DETAILS_BYTES + 2
    planned = plan_shards(clips, {}, limit)
    assert [[clip.clip_id for clip in shard.clips] for shard in planned] == [[*IDS[:2]], [IDS[2]], [IDS[3]]]
    present = {planned[1].name: WrittenFile(sha256="", num_bytes=1, clips={IDS[2]: 1})}
    assert [shard.name for shard in plan_shards(clips, present, limit)] == ["shard-000000.tar", "shard-000002.tar"]
    assert DETAILS_BYTES > 10_000
