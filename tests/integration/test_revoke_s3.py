"""`revoke` on object storage: nothing is left in a versioned bucket, and a store that does not permit that is named."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lynx_batch import storage
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.metadata import Outcome
from lynx_batch.ledger.owners import owners_of, write_owners
from lynx_batch.output import attempts_uri
from tests.builders import ended, record, small_clip, start_run, write_metadata
from tests.jobs import invoke
from tests.stores import create_bucket, moto_server, refusing_store, use_endpoint

PHOTO = "1" * 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("store")) as url:
        yield url


def make(output: str) -> None:
    start_run(output, "run")
    write_owners(output, "run", owners_of("run", [small_clip()]))
    commit(output, record("ab12", "run-00000001"))
    for extension in ("mp4", "jpg"):
        storage.write_bytes(f"{attempts_uri(output, 'ab12')}/run-00000001.{extension}", b"x")
    write_metadata(output, "run", [ended(Outcome.RENDERED, small_clip())])


def versions(bucket: str) -> list[str]:
    """All versions and marks of deletions below what holds clips and metadata."""
    answer = boto3.client("s3").list_object_versions(Bucket=bucket)
    entries = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
    return [entry["Key"] for entry in entries if entry["Key"].startswith(("out/clips", "out/metadata"))]


def test_no_version_is_left_in_a_versioned_bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(server, monkeypatch)
    output = create_bucket("versioned")
    boto3.client("s3").put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    make(output)
    pruned = f"{attempts_uri(output, 'ab12')}/run-00000000.mp4"
    storage.write_bytes(pruned, b"a killed attempt")
    storage.delete(pruned)

    result = invoke("revoke", output, "--photo-sha256", PHOTO, "--erase", "--yes")

    assert result.exit_code == 0, result.output
    assert "2 files and 9 old versions deleted, 1 row blanked" in result.stdout
    assert versions("versioned") == ["out/metadata/run=run/part-00000.parquet"]
    assert invoke("verify", output).exit_code == 0
    assert invoke("revoke", output, "--photo-sha256", PHOTO, "--erase", "--yes").exit_code == 0


def test_a_bucket_without_versions_has_none(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(server, monkeypatch)
    output = create_bucket("plain")
    make(output)
    assert list(storage.list_old_versions(output)) == []
    result = invoke("revoke", output, "--photo-sha256", PHOTO, "--yes")
    assert (result.exit_code, versions("plain")) == (0, ["out/metadata/run=run/part-00000.parquet"])


def test_a_store_that_does_not_give_up_old_versions_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with refusing_store(monkeypatch) as store:
        make("s3://bucket/out")
        store.method, store.what = "GET", "versions"
        result = invoke("revoke", "s3://bucket/out", "--photo-sha256", PHOTO, "--erase", "--yes")
        assert result.exit_code == 3, result.output
        assert "not everything is gone: s3://bucket/out/" in result.stdout
        assert "this needs s3:ListBucketVersions" in result.stdout
        assert not list(storage.list_files("s3://bucket/out/clips"))
        blanked = b"".join(storage.read_bytes(file.uri) for file in storage.list_files("s3://bucket/out/runs"))
        assert PHOTO.encode() in blanked, "what was made of whom is still known, so that it can be finished"
