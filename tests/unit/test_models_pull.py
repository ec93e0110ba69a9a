"""`models pull` against a hub on this machine, with the tiny model's adapters as what was published."""

import hashlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from lynx_model.checkpoints.fingerprint import fingerprint_folder, read_fingerprint, verify_folder
from lynx_model.checkpoints.published import PUBLISHED, FileSource, RepoSource
from lynx_model.checkpoints.pull import pull
from lynx_model.errors import MissingFile, Transient, WeightsMismatch
from lynx_model.faces.free_pack import build_free_pack
from tests.hub import Hub, serve
from tests.models import MODEL
from tests.stores import read_folder, read_only

LITE = PUBLISHED["lite"]
BIG_FILE = "lynx_lite/resampler.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {f"{name}/{path}": content for name in ("lynx_full", "lynx_lite") for path, content in published(name)}
    with serve(Hub(repo_id="ByteDance/lynx", files=files | {"README.md": b"hello"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def published(name: str) -> list[tuple[str, bytes]]:
    return [(path, content) for path, content in read_folder(MODEL / name).items() if path.endswith(".safetensors")]


def file_source(content: bytes, path: str = "arcface/arcface.pth") -> FileSource:
    return FileSource(url="http://unused.invalid", path=path, sha256=hashlib.sha256(content).hexdigest())


def test_pull_lays_the_published_files_and_their_fingerprint(hub: Hub, tmp_path: Path) -> None:
    folder = pull(LITE, tmp_path)
    assert folder == tmp_path / "lynx_lite"
    assert {path: (folder / path).read_bytes() for path, _ in published("lynx_lite")} == dict(published("lynx_lite"))
    fingerprint = read_fingerprint(folder)
    assert fingerprint is not None
    assert (fingerprint.source, fingerprint.revision) == ("ByteDance/lynx", hub.commit)
    assert verify_folder(folder) == []


def test_pull_fetches_nothing_but_what_was_asked_for(hub: Hub, tmp_path: Path) -> None:
    pull(LITE, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lynx_lite"]
    assert not [request for request in hub.requests if "lynx_full" in request or "README" in request]


def test_the_base_is_a_repository_of_its_own(hub: Hub, tmp_path: Path) -> None:
    hub.repo_id, hub.commit = "Wan-AI/Wan2.1-T2V-14B-Diffusers", PUBLISHED["base"].revision
    hub.files = read_folder(MODEL / "Wan2.1-T2V-tiny-Diffusers") | {"assets/video.mp4": b"large", "README.md": b""}
    del hub.files["lynx-fingerprint.json"]
    folder = pull(PUBLISHED["base"], tmp_path)
    assert folder == tmp_path / "Wan2.1-T2V-14B-Diffusers"
    assert fingerprint_folder(folder) == fingerprint_folder(MODEL / "Wan2.1-T2V-tiny-Diffusers")
    assert not (folder / "assets").exists()


def test_a_complete_folder_is_not_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    pull(LITE, tmp_path)
    hub.requests.clear()
    pull(LITE, tmp_path)
    assert hub.requests == []


def test_a_folder_stays_on_the_revision_that_it_was_fetched_at(hub: Hub, tmp_path: Path) -> None:
    folder = pull(LITE, tmp_path)
    first = hub.commit
    (folder / "resampler.safetensors").unlink()
    hub.requests.clear()
    pull(LITE, tmp_path)
    assert hub.requests[0] == f"GET /api/models/ByteDance/lynx/tree/{first}"
    assert verify_folder(folder) == []


def test_another_revision_is_taken_when_it_is_named(hub: Hub, tmp_path: Path) -> None:
    folder = pull(LITE, tmp_path)
    hub.commit, hub.files[BIG_FILE] = "f00d" * 10, hub.files["lynx_full/resampler.safetensors"]
    pull(LITE, tmp_path, revision="main")
    fingerprint = read_fingerprint(folder)
    assert fingerprint is not None
    assert fingerprint.revision == hub.commit
    assert (folder / "resampler.safetensors").read_bytes() == hub.files[BIG_FILE]


def test_an_interrupted_pull_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cut_bytes = 300_000
    with pytest.raises(Transient, match="ByteDance/lynx: the server answered 501"):
        pull(LITE, tmp_path)
    assert read_fingerprint(tmp_path / "lynx_lite") is None
    hub.repair()
    folder = pull(LITE, tmp_path)
    fetched = [request for request in hub.requests if BIG_FILE in request]
    assert fetched == [f"GET /ByteDance/lynx/resolve/{hub.commit}/{BIG_FILE} bytes=300000-"]
    assert (folder / "resampler.safetensors").read_bytes() == hub.files[BIG_FILE]
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors", ".safetensors"]


def test_an_unreliable_line_is_no_error(hub: Hub, tmp_path: Path) -> None:
    hub.cut_bytes, hub.is_cut_once = 300_000, True
    folder = pull(LITE, tmp_path)
    assert (folder / "resampler.safetensors").read_bytes() == hub.files[BIG_FILE]


def test_what_was_fetched_of_one_revision_is_no_part_of_another(hub: Hub, tmp_path: Path) -> None:
    hub.cut_bytes = 300_000
    with pytest.raises(Transient):
        pull(LITE, tmp_path)
    hub.repair()
    hub.commit, hub.files[BIG_FILE] = "f00d" * 10, hub.files[BIG_FILE][::-1]
    assert (pull(LITE, tmp_path) / "resampler.safetensors").read_bytes() == hub.files[BIG_FILE]


def test_a_damaged_file_of_the_right_size_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    folder = pull(LITE, tmp_path)
    (folder / "lynx-fingerprint.json").unlink()
    (folder / "resampler.safetensors").write_bytes(hub.files[BIG_FILE][:-1] + b"x")
    hub.requests.clear()
    pull(LITE, tmp_path)
    assert [request for request in hub.requests if "resolve" in request] == [
        f"GET /ByteDance/lynx/resolve/{hub.commit}/{BIG_FILE}"
    ]
    assert (folder / "resampler.safetensors").read_bytes() == hub.files[BIG_FILE]


def test_what_is_not_the_published_content_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = BIG_FILE
    with pytest.raises(WeightsMismatch, match=r"resampler\.safetensors: expected sha256 \w{64} as published, found"):
        pull(LITE, tmp_path)
    assert not (tmp_path / "lynx_lite" / "resampler.safetensors").exists()


def test_small_files_are_checked_by_the_hash_that_git_gives_them(hub: Hub, tmp_path: Path) -> None:
    hub.files["lynx_lite/config.json"] = b'{"a": 1}'
    hub.damaged = "lynx_lite/config.json"
    with pytest.raises(WeightsMismatch, match=r"config\.json: expected git id \w{40} as published, found \w{40}; pull"):
        pull(LITE, tmp_path)
    assert not list(tmp_path.rglob("config.json*"))
    assert read_fingerprint(tmp_path / "lynx_lite") is None
    hub.damaged = ""
    assert (pull(LITE, tmp_path) / "config.json").read_bytes() == b'{"a": 1}'


def test_a_file_without_any_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["lynx_lite/config.json"], hub.nameless = b"{}", "lynx_lite/config.json"
    with pytest.raises(WeightsMismatch, match=r"config\.json: must have a published sha256 or git id, found ''"):
        pull(LITE, tmp_path)


def test_small_files_that_are_there_are_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.files["lynx_lite/config.json"], hub.files["lynx_lite/empty.json"] = b'{"a": 1}', b""
    folder = pull(LITE, tmp_path)
    (folder / "resampler.safetensors").unlink()
    hub.requests.clear()
    pull(LITE, tmp_path)
    assert [request for request in hub.requests if "resolve" in request] == [
        f"GET /ByteDance/lynx/resolve/{hub.commit}/{BIG_FILE}"
    ]


@pytest.mark.parametrize("name", ["lynx_lite/../../x.json", "lynx_lite//x.json", "lynx_lite/a\\x.json"])
def test_a_repository_writes_nothing_outside_of_its_folder(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.files[name] = b"planted"
    with pytest.raises(WeightsMismatch, match=r"ByteDance/lynx at c0ffee0*: file name '.*': must "):
        pull(LITE, tmp_path / "models")
    assert not list(tmp_path.rglob("x.json"))
    assert not [request for request in hub.requests if "resolve" in request]


def test_files_of_a_repository_that_differ_in_case_alone_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files[BIG_FILE.upper().replace("LYNX_LITE", "lynx_lite")] = b"planted"
    with pytest.raises(WeightsMismatch, match="by more than case"):
        pull(LITE, tmp_path)


def test_a_file_that_was_swapped_for_one_of_its_size_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    folder = pull(LITE, tmp_path)
    file = folder / "resampler.safetensors"
    before = file.stat()
    file.write_bytes(hub.files[BIG_FILE][::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    pull(LITE, tmp_path)
    assert file.read_bytes() == hub.files[BIG_FILE]


def test_what_lay_in_the_folder_before_is_not_recorded_as_fetched(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "lynx_lite").mkdir()
    (tmp_path / "lynx_lite" / "own.safetensors").write_bytes(b"own")
    folder = pull(LITE, tmp_path)
    assert "own.safetensors" not in read_fingerprint(folder).files
    with pytest.raises(
        WeightsMismatch, match=r"own\.safetensors: is surplus; it must be as it came from ByteDance/lynx"
    ):
        fingerprint_folder(folder)


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        (LITE, "no-such-tag", "ByteDance/lynx: .*404"),
        (RepoSource(repo_id="a/b", folder="x", patterns=("*",), is_whole_repo=True, revision=None), None, "a/b: .*404"),
        (
            RepoSource(repo_id="ByteDance/lynx", folder="x", patterns=("x/*",), is_whole_repo=False, revision=None),
            None,
            r"ByteDance/lynx at c0ffee0*: must hold x/\*",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    hub: Hub, tmp_path: Path, source: RepoSource, revision: str | None, message: str
) -> None:
    with pytest.raises(MissingFile, match=message):
        pull(source, tmp_path, revision)


def test_a_hub_out_of_reach_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Transient, match=r"ByteDance/lynx: cannot be reached .*; pull again to resume"):
        pull(LITE, tmp_path)


def test_a_disk_without_space_is_named_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.claimed_bytes = 10**18
    with pytest.raises(Transient, match=r"needs 2000000000\.0 GB more, its disk has [\d.]+ GB left"):
        pull(LITE, tmp_path)
    assert not [request for request in hub.requests if "resolve" in request]


def test_a_file_is_fetched_and_recorded(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNX_BATCH_ARCFACE_URL", hub.file_url(BIG_FILE))
    source = file_source(hub.files[BIG_FILE])
    for _ in range(2):
        folder = pull(source, tmp_path)
    assert (folder / "arcface.pth").read_bytes() == hub.files[BIG_FILE]
    assert len(hub.requests) == 1
    fingerprint = read_fingerprint(folder)
    assert fingerprint is not None
    assert (fingerprint.files["arcface.pth"].sha256, fingerprint.source) == (source.sha256, source.url)


def test_an_interrupted_file_goes_on_where_it_stopped(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYNX_BATCH_ARCFACE_URL", hub.file_url(BIG_FILE))
    hub.cut_bytes = 100_000
    with pytest.raises(Transient, match=r"resampler\.safetensors: the server answered 501"):
        pull(file_source(hub.files[BIG_FILE]), tmp_path)
    hub.repair()
    folder = pull(file_source(hub.files[BIG_FILE]), tmp_path)
    assert (folder / "arcface.pth").read_bytes() == hub.files[BIG_FILE]
    assert [request.rpartition(" ")[2] for request in hub.requests] == ["bytes=100000-"]
    assert sorted(path.name for path in folder.iterdir()) == ["arcface.pth", "lynx-fingerprint.json"]


def test_a_file_that_was_whole_but_not_yet_in_place_is_not_fetched_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYNX_BATCH_ARCFACE_URL", hub.file_url(BIG_FILE))
    source = file_source(hub.files[BIG_FILE])
    part = tmp_path / "arcface" / f"arcface.pth.{source.sha256[:8]}.part"
    part.parent.mkdir()
    part.write_bytes(hub.files[BIG_FILE])
    assert (pull(source, tmp_path) / "arcface.pth").read_bytes() == hub.files[BIG_FILE]


def test_another_file_at_that_place_is_refused(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNX_BATCH_ARCFACE_URL", hub.file_url(BIG_FILE))
    with pytest.raises(WeightsMismatch, match=r"arcface\.pth: expected sha256 \w{64} as published, found \w{64}"):
        pull(file_source(b"published"), tmp_path)
    assert list((tmp_path / "arcface").iterdir()) == []


def test_an_error_shows_no_signature_of_a_url(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNX_BATCH_ARCFACE_URL", f"{hub.url}/nothing.pth?signature=secret")
    with pytest.raises(MissingFile, match=r"/nothing\.pth: the server answered 404") as caught:
        pull(file_source(b""), tmp_path)
    assert "secret" not in str(caught.value)


def test_a_disk_that_fills_up_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNX_BATCH_ARCFACE_URL", hub.file_url(BIG_FILE))
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(Transient, match=r"resampler\.safetensors: .*File too large; pull again to resume"):
            pull(file_source(hub.files[BIG_FILE]), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = pull(file_source(hub.files[BIG_FILE]), tmp_path)
    assert (folder / "arcface.pth").read_bytes() == hub.files[BIG_FILE]


def test_a_folder_that_cannot_be_written_to_is_no_matter_of_pulling_again(hub: Hub, tmp_path: Path) -> None:
    with read_only(tmp_path), pytest.raises(MissingFile, match="models folder that you can write to"):
        pull(LITE, tmp_path / "models")
    (tmp_path / "file").touch()
    with pytest.raises(MissingFile, match="models folder that you can write to"):
        pull(LITE, tmp_path / "file")
    with pytest.raises(MissingFile, match="cannot be made"):
        build_free_pack(tmp_path / "file" / "free")
