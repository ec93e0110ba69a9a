"""Where photos may lie."""

import pytest

from lynx_batch.photo_places import ANYWHERE, explain_entry, explain_photo, is_inward, is_named
from tests.uris import NO_PLACES


@pytest.mark.parametrize(
    "uri",
    [
        "/photos/a.jpg",
        "file:///photos/a.jpg",
        "/photos/what? 100% #1.jpg",
        "/photos/::/a.jpg",
        "s3://bucket/a.jpg",
        "s3://my_Bucket.1/a b/../c.jpg",
        f"s3://{'Aa_' * 85}/a.jpg",
        "s3://_old-/a.jpg",
        "s3://192.168.0.1.bucket/a.jpg",
        "s3://1234/a.jpg",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/a.jpg",
        "gs://bucket/a.jpg",
        "gs://photos.example.com_1/a.jpg",
        "az://container/a.jpg",
        "az://$root/a.jpg",
        "az://container@account.dfs.core.windows.net/a.jpg",
        "https://host/a.jpg?X-Amz-Signature=a%2Fb::c#x",
        "http://user:secret@host:8080/a.jpg",
        "https://bücher.example/ä.jpg",
        "https://host./a.jpg",
        "https://host",
        "http://[2001:db8::1]:8080/a.jpg",
        "http://10.0.0.1/a.jpg",
    ],
)
def test_local_files_three_stores_and_the_web_are_places_of_photos(uri: str) -> None:
    assert explain_photo(uri, ANYWHERE) is None


@pytest.mark.parametrize(("uri", "rule"), NO_PLACES)
def test_what_is_no_place_of_a_photo_breaks_a_rule_that_tells_nothing_of_it(uri: str, rule: str) -> None:
    found = explain_photo(uri, ANYWHERE)
    assert found is not None
    assert rule in found
    assert "se/cret" not in found


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("/data/photos/", ["/data/photos/a.jpg", "file:///data/photos/b/a.jpg", "/x/../data/photos/a.jpg"], []),
        (
            "/data/photos",
            ["/data/photos/a.jpg"],
            ["/data/photos2/a.jpg", "/data/photos/../a.jpg", "s3://data/photos/a"],
        ),
        ("file:///data", ["/data/a.jpg"], ["/a.jpg"]),
        ("s3://buck", ["s3://buck/a.jpg"], ["s3://bucket-of-somebody-else/a.jpg", "gs://buck/a.jpg", "/buck/a.jpg"]),
        (
            "s3://bkt/faces/",
            ["s3://bkt/faces/x/a.jpg"],
            ["s3://bkt/faces2/a.jpg", "s3://bkt/a.jpg", "s3://bkt/faces/../a.jpg"],
        ),
        ("s3a://", ["s3a://bkt/a.jpg"], ["s3://bkt/a.jpg"]),
        (
            "https://h/",
            ["https://H:443/a.jpg", "https://u:p@h/a.jpg"],
            ["https://h.evil/a.jpg", "https://h@evil/a.jpg"],
        ),
        ("https://h", ["https://h./a.jpg"], ["http://h/a.jpg", "https://h:444/a.jpg", "https://evil/https://h/"]),
        ("https://h/faces", ["https://h/faces/a.jpg?x", "https://h/f%61ces/a.jpg"], ["https://h/facesx/a.jpg"]),
        (
            "https://h/faces/",
            [],
            ["https://h/faces/../a.jpg", "https://h/faces/%2e%2E/a.jpg", "https://h/faces/..%2fa.jpg"],
        ),
        ("https://h/faces", [], ["https://h/faces\\..\\a.jpg", "https://h/", "https://h"]),
        (
            "http://127.0.0.1:8000/",
            ["http://127.0.0.1:8000/a.jpg"],
            ["http://127.0.0.1/a.jpg", "http://127.0.0.2:8000/a"],
        ),
    ],
)
def test_a_place_is_itself_and_all_below_it(entry: str, inside: list[str], outside: list[str]) -> None:
    assert explain_entry(entry) is None
    assert [explain_photo(uri, [entry]) for uri in inside] == [None] * len(inside)
    rules = [explain_photo(uri, [entry]) for uri in outside]
    assert all(rule is not None and "must be in or below one of the places in inputs.allow" in rule for rule in rules)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "photos",
        "s3",
        "s3:/",
        "memory://",
        "file://photos",
        "https://u:p@h/",
        "https://h/?x",
        "s3://bkt?x",
        "s3://b",
        "simplecache::s3://bkt",
    ],
)
def test_a_place_of_the_run_file_that_is_none_is_told(entry: str) -> None:
    assert explain_entry(entry) is not None


def test_an_address_is_inward_in_any_spelling() -> None:
    inward = ["127.0.0.1", "127.1", "0", "::1", "::ffff:169.254.1.1", "fe80::1", "localhost", "Localhost".lower() + "."]
    inward += ["fd00:ec2::254", "2002:7f00:1::", "64:ff9b::7f00:1", "::127.0.0.1", "64:ff9b::169.254.169.254", "::"]
    assert [host for host in inward if not is_inward(host)] == []
    assert [
        host
        for host in [
            "10.0.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "64:ff9b::808:808",
            "2002:808:808::",
            "host",
            "localhost.example",
        ]
        if is_inward(host)
    ] == []


def test_only_a_place_with_a_host_names_one() -> None:
    assert is_named("http://127.0.0.1:8000/a.jpg", ["http://", "http://127.0.0.1:8000/"])
    assert not is_named("http://127.0.0.1:8000/a.jpg", ["http://", "http://127.0.0.1:8001/"])


def test_a_port_that_no_place_names_is_told_with_what_to_add() -> None:
    at_port, to_add = "http://127.0.0.1:8931/a.jpg", "add http://127.0.0.1:8931/"
    for allow in (["http://127.0.0.1"], ["http://127.0.0.1/"], ["http://", "http://127.0.0.1"], ["http://"]):
        assert str(explain_photo(at_port, allow)).endswith(to_add)
    assert "port 80 of this host" in str(explain_photo(at_port, ["http://127.0.0.1"]))
    assert explain_photo(at_port, ["http://127.0.0.1:8931/"]) is None
    for other in ("http://other:8931/a.jpg", "https://127.0.0.1/a.jpg", "s3://bucket/a.jpg"):
        assert "add " not in str(explain_photo(other, ["http://127.0.0.1"]))
