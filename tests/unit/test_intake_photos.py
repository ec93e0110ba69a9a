"""Photos are hashed once, and remembered without being told."""

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from lynx_batch.config import InputsConfig
from lynx_batch.errors import StoreUnready
from lynx_batch.intake.photos import PhotoProblem, find_outages, hash_photos
from tests.web import serve

INPUTS = InputsConfig()


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lynx-batch" / "photo-hashes.json"


def write_photos(folder: Path, num_photos: int) -> dict[str, str]:
    """URI -> sha256 of a few files."""
    hashes = {}
    for index in range(num_photos):
        content = f"photo {index}".encode()
        (folder / f"{index}.jpg").write_bytes(content)
        hashes[str(folder / f"{index}.jpg")] = hashlib.sha256(content).hexdigest()
    return hashes


def test_a_store_that_is_not_set_up_stops_a_run_only_if_most_photos_lie_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    here = tmp_path / "a.jpg"
    here.write_bytes(b"a")
    found = hash_photos([str(here), "s3://bucket/b.jpg"], InputsConfig())
    assert isinstance(found[str(here)], str)
    assert found["s3://bucket/b.jpg"].error_type == "StoreUnready"
    with pytest.raises(StoreUnready, match=r"AWS_CA_BUNDLE=.*must be a readable file"):
        hash_photos([str(here), "s3://bucket/b.jpg", "s3://bucket/c.jpg"], InputsConfig())


def test_a_bucket_that_no_store_has_is_the_rows_problem_in_a_store_that_is_not_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    bad = ["s3://a..b/k", "s3://ab/k", "s3://-abc/k", "s3://192.168.0.1/k"]
    found = hash_photos([*bad, "s3://Bad_Bucket/k"], InputsConfig())
    assert found.pop("s3://Bad_Bucket/k").error_type == "StoreUnready"
    assert {problem.error_type for problem in found.values()} == {"InputRefused"}
    assert all(problem.error.startswith(f"{uri}: must name a bucket") for uri, problem in found.items())


def test_each_photo_is_named_by_its_content(tmp_path: Path) -> None:
    hashes = write_photos(tmp_path, 40)
    assert hash_photos([*hashes, *hashes], INPUTS) == hashes


def test_what_cannot_be_read_is_a_reason_and_no_exception(tmp_path: Path) -> None:
    (good,) = write_photos(tmp_path, 1)
    found = hash_photos(
        [good, str(tmp_path / "none.jpg"), str(tmp_path), "nonsense://user:secret@x/a.jpg?sig=secret"], INPUTS
    )
    problems = [photo for photo in found.values() if isinstance(photo, PhotoProblem)]
    assert [problem.error_type for problem in problems] == ["MissingObject", "MissingObject", "InputRefused"]
    assert not any(problem.is_transient for problem in problems)
    assert not any("secret" in problem.error for problem in problems)
    assert isinstance(found[good], str)


def test_a_host_that_is_down_is_no_missing_photo() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        (problem,) = hash_photos([f"{host}/a.jpg"], InputsConfig(allow=[host])).values()
    assert isinstance(problem, PhotoProblem)
    assert (problem.error_type, problem.is_transient, problem.cause) == ("PhotoUnreachable", True, "cannot connect")


def test_a_redirect_out_of_the_web_costs_no_other_photo(tmp_path: Path) -> None:
    (good,) = write_photos(tmp_path, 1)
    with serve() as server:
        places = ["file:///9/x", "file:///C:/x", "s3://bucket/k", "data:,x", "mailto:x"]
        bad = [
            server.put(f"/{index}.jpg", status=302, headers={"Location": place}) for index, place in enumerate(places)
        ]
        found = hash_photos([*bad, good], InputsConfig(allow=["/", "s3://", server.url]))
    assert isinstance(found.pop(good), str)
    assert [problem.error_type for problem in found.values()] == ["InputRefused"] * len(places)


def test_a_photo_that_is_remembered_is_not_read_again(tmp_path: Path, memory: Path) -> None:
    hashes = write_photos(tmp_path, 1)
    hash_photos(hashes, INPUTS)
    (key,) = json.loads(memory.read_text())
    memory.write_text(json.dumps({key: "f" * 64}))
    assert hash_photos(hashes, INPUTS) == dict.fromkeys(hashes, "f" * 64)


def test_a_photo_that_changed_is_read_again(tmp_path: Path) -> None:
    ((uri, before),) = write_photos(tmp_path, 1).items()
    hash_photos([uri], INPUTS)
    Path(uri).write_bytes(b"PHOTO 0")
    os.utime(uri, ns=(0, 0))
    assert hash_photos([uri], INPUTS)[uri] == hashlib.sha256(b"PHOTO 0").hexdigest() != before


def test_the_memory_holds_no_uri(tmp_path: Path, memory: Path) -> None:
    hash_photos(write_photos(tmp_path, 2), INPUTS)
    text = memory.read_text()
    assert ".jpg" not in text
    assert str(tmp_path) not in text
    assert len(json.loads(text)) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_memory_that_cannot_be_read_is_ignored_and_replaced(tmp_path: Path, memory: Path, content: bytes) -> None:
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content)
    hashes = write_photos(tmp_path, 1)
    assert hash_photos(hashes, INPUTS) == hashes
    assert list(json.loads(memory.read_text()).values()) == list(hashes.values())


def test_a_memory_that_cannot_be_written_is_no_fault(
    tmp_path: Path, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.mkdir(parents=True)
    hashes = write_photos(tmp_path, 1)
    assert hash_photos(hashes, INPUTS) == hashes
    assert "photo_hashes_not_remembered" in "".join(capsys.readouterr())


def test_photos_of_the_web_are_remembered_by_what_their_server_says() -> None:
    with serve() as server:
        inputs = InputsConfig(allow=[server.url])
        server.put("/a.jpg", b"first", headers={"ETag": "1"})
        server.put("/b.jpg", b"first")
        first = hash_photos([f"{server.url}/a.jpg", f"{server.url}/b.jpg"], inputs)
        server.put("/a.jpg", b"other", headers={"ETag": "1"})
        server.put("/b.jpg", b"other")
        second = hash_photos(first, inputs)
    assert second[f"{server.url}/a.jpg"] == first[f"{server.url}/a.jpg"]
    assert second[f"{server.url}/b.jpg"] == hashlib.sha256(b"other").hexdigest()


def test_a_photo_that_was_cut_short_is_never_remembered(memory: Path) -> None:
    with serve() as server:
        inputs = InputsConfig(allow=[server.url], max_tries=2)
        server.put("/a.jpg", b"0123456789", headers={"ETag": "1"}, cut_at=4)
        (problem,) = hash_photos([f"{server.url}/a.jpg"], inputs).values()
        assert isinstance(problem, PhotoProblem)
        assert (problem.cause, problem.is_transient) == ("broken answer", True)
        assert not memory.exists()
        server.put("/a.jpg", b"0123456789", headers={"ETag": "1"}, cut_at=4, num_cuts=2)
        assert [*hash_photos([f"{server.url}/a.jpg"], inputs).values()] == [hashlib.sha256(b"0123456789").hexdigest()]


def test_a_body_of_no_announced_length_is_not_remembered(memory: Path) -> None:
    with serve() as server:
        server.put("/a.jpg", b"0123456789", headers={"ETag": "1"}, is_length_told=False)
        hash_photos([f"{server.url}/a.jpg"], InputsConfig(allow=[server.url]))
    assert not memory.exists()


@pytest.mark.parametrize(
    ("num_bad", "num_good", "causes", "is_outage"),
    [
        (3, 2, ["HTTP 500"], True),
        (4, 0, ["HTTP 500"], False),
        (3, 3, ["HTTP 500"], False),
        (4, 1, ["HTTP 500", "no answer"], False),
    ],
)
def test_more_than_half_of_at_least_five_photos_that_fail_alike_are_their_hosts_fault(
    num_bad: int, num_good: int, causes: list[str], is_outage: bool
) -> None:
    bad = {
        f"https://h/{index}.jpg": PhotoProblem(
            error_type="PhotoUnreachable", error="e", is_transient=True, cause=causes[index % len(causes)]
        )
        for index in range(num_bad)
    }
    good = {f"https://h/good/{index}.jpg": "f" * 64 for index in range(num_good)}
    others = {f"https://other/{index}.jpg": "f" * 64 for index in range(9)}
    missing = {
        f"s3://b/{index}.jpg": PhotoProblem(error_type="MissingObject", error="e", cause="e") for index in range(9)
    }
    outages = find_outages(bad | good | others | missing)
    assert list(outages) == (["https://h"] if is_outage else [])
    assert not is_outage or "3 of 5 photos of https://h cannot be read (HTTP 500)" in outages["https://h"]


def test_a_host_that_answers_nothing_is_not_asked_for_every_photo() -> None:
    with serve() as server:
        inputs = InputsConfig(allow=[server.url], max_tries=1, read_timeout_s=0.05)
        server.is_silent = True
        uris = [f"{server.url}/{index}.jpg" for index in range(200)]
        photos = hash_photos(uris, inputs)
        assert len(server.requests) < 100
        assert list(find_outages(photos)) == [server.url]
        assert {photo.cause for photo in photos.values() if isinstance(photo, PhotoProblem)} == {"no answer"}


def test_a_host_that_answers_is_asked_for_every_photo() -> None:
    with serve() as server:
        inputs = InputsConfig(allow=[server.url], max_tries=1)
        uris = [f"{server.url}/{index}.jpg" for index in range(60)]
        server.put("/59.jpg", b"photo")
        photos = hash_photos(uris, inputs)
        assert isinstance(photos[uris[-1]], str)
        assert find_outages(photos) == {}
