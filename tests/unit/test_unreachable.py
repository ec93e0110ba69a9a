"""What commands make of URIs that are malformed, and of photos that cannot be reached; no row renders, so no Ray is started."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.runs import read_runs
from tests.builders import COLLINS, row
from tests.jobs import Job, invoke
from tests.uris import NO_PLACES
from tests.web import WebServer, forget_proxies, serve

MALFORMED = [uri for uri, _ in NO_PLACES if uri not in ("a.jpg", "/", "/photos/")]
IN_VAIN = [
    "http://nowhere.invalid/a.jpg",
    "/dev/zero",
    "/proc/self/mem",
    "/nowhere/a.jpg",
    f"/{'a' * 5000}.jpg",
    "/etc",
]


@pytest.fixture(autouse=True)
def few_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget_proxies(monkeypatch)


@pytest.fixture
def server() -> Iterator[WebServer]:
    with serve() as web:
        yield web


@pytest.fixture
def make_job(tmp_path: Path, face_pack: Path) -> Callable[..., Job]:
    def make(rows: list[dict[str, object]], *places: str) -> Job:
        inputs = {"allow": ["/", "http://", *places], "max_tries": 1, "connect_timeout_s": 5, "read_timeout_s": 5}
        return Job(folder=tmp_path, face_pack=face_pack, rows=rows, settings={"inputs": inputs})

    return make


def run(*arguments: object) -> Result:
    result = invoke(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_every_malformed_uri_is_told_with_its_row_by_check_and_by_whatever_would_render(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job = make_job([row(uri, str(number)) for number, uri in enumerate(MALFORMED)])
    manifest, run_file, problems = tmp_path / "manifest.parquet", tmp_path / "run.yaml", tmp_path / "problems.jsonl"
    checked = run("manifest", "check", manifest, "--problems", problems)
    assert checked.exit_code == 2
    told = [json.loads(line) for line in problems.read_text().splitlines()]
    assert [(problem["row"], problem["column"]) for problem in told] == [
        (number, "subject_uri") for number in range(len(MALFORMED))
    ]
    assert "secret" not in problems.read_text() + checked.output
    on_cluster = ["--output", "s3://bucket/out", "--set", "cluster.shared_paths=[/]"]
    for command, options in (("plan", []), ("render", []), ("submit", on_cluster)):
        refused = run(command, run_file, *options)
        assert refused.exit_code == 2
        assert f"the manifest breaks {len(MALFORMED)} rules" in refused.stderr
        assert "secret" not in refused.output
    assert not Path(job.output).exists()


@pytest.mark.parametrize("uri", ["zip://a::/b", "http://127.0.0.1/a", "s3://k:secret@b/a", "http://h:p/a", *IN_VAIN])
def test_one_tells_what_it_cannot_read(make_job: Callable[..., Job], tmp_path: Path, uri: str) -> None:
    make_job([row()])
    refused = run("one", uri, "Hi.", "--run", tmp_path / "run.yaml", "--out", tmp_path / "clip.mp4")
    assert refused.exit_code == (4 if uri in ("http://nowhere.invalid/a.jpg", "/proc/self/mem") else 2)
    assert "error: " in refused.stderr
    assert "secret" not in refused.stderr


def test_what_cannot_be_read_rejects_its_row_alone_and_is_tried_again_by_the_next_run(
    make_job: Callable[..., Job], server: WebServer
) -> None:
    server.put("/500.jpg", status=500)
    server.put("/circle.jpg", status=302, headers={"Location": "/circle.jpg"})
    server.put("/away.jpg", status=302, headers={"Location": "file:///9/secret"})
    server.put("/short.jpg", COLLINS.read_bytes(), cut_at=100)
    pages = [f"{server.url}/{name}.jpg?sig=secret" for name in ("500", "circle", "short", "gone", "away")]
    job = make_job([row(uri, str(number)) for number, uri in enumerate([*pages, *IN_VAIN])], server.url)
    run_file = job.folder / "run.yaml"

    rendered = run("render", run_file)

    assert rendered.exit_code == 3, rendered.output
    rows = {told["row"]: told for told in read_metadata(job.output).to_pylist()}
    assert {told["outcome"] for told in rows.values()} == {"rejected"}
    assert [rows[number]["error_type"] for number in range(len(rows))] == [
        *("PhotoUnreachable", "StoreRefused", "PhotoUnreachable", "MissingObject", "InputRefused"),
        *("PhotoUnreachable", "InputRefused", "StoreUnavailable", "MissingObject", "StoreRefused", "MissingObject"),
    ]
    assert "secret" not in rendered.output + str(rows)

    server.put("/500.jpg", COLLINS.read_bytes())
    planned = run("plan", run_file)
    assert planned.exit_code == 0
    assert "1 to render, 0 committed, 0 given up before, 10 rejected" in planned.stdout


def test_a_host_that_gives_hardly_any_photo_abandons_its_rows_and_the_run_is_to_be_run_again(
    make_job: Callable[..., Job], server: WebServer
) -> None:
    for number in range(5):
        server.put(f"/{number}.jpg", status=503)
    uris = [*(f"{server.url}/{number}.jpg" for number in range(6)), "/nowhere/a.jpg"]
    job = make_job([row(uri) for uri in uris], server.url)

    rendered = run("render", job.folder / "run.yaml", "--allow-invalid")

    assert rendered.exit_code == 4
    reason = f"5 of 6 photos of {server.url} cannot be read (HTTP 503)"
    assert f"stopped: {reason}. Run the same command again to continue." in rendered.stdout
    rows = sorted(read_metadata(job.output).to_pylist(), key=lambda told: told["row"])
    assert [told["outcome"] for told in rows] == ["abandoned"] * 5 + ["rejected"] * 2
    assert [told["error_type"] for told in rows] == ["PhotoUnreachable"] * 5 + ["MissingObject"] * 2
    (ended,) = read_runs(job.output)
    assert ended.end is not None
    assert (ended.end.stopped_by, ended.end.counts) == (reason, {"abandoned": 5, "rejected": 2})
    planned = run("plan", job.folder / "run.yaml")
    assert f"5 rows cannot start because their photos cannot be read: {reason}" in planned.stdout


def test_text_files_are_read_within_a_bound(make_job: Callable[..., Job], tmp_path: Path) -> None:
    make_job([row()])
    (tmp_path / "rows.csv").symlink_to("/dev/zero")
    out = ["--out", tmp_path / "m.parquet"]
    for refused in (
        run("manifest", "build", "--photos", COLLINS.parent, "--prompts", "/dev/zero", *out),
        run("manifest", "build", "--from", tmp_path / "rows.csv", *out),
        run("manifest", "check", "/dev/zero"),
        run("render", "/dev/zero"),
    ):
        assert refused.exit_code == 2
        assert "error: " in refused.stderr


def test_a_run_file_that_names_a_wrong_place_is_told_without_its_password(tmp_path: Path) -> None:
    text = "manifest: m\noutput: o\nmodel: {base: b, adapters: a}\ninputs: {allow: ['https://me:hunter2@host/']}\n"
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    refused = run("render", tmp_path / "run.yaml")
    assert "inputs.allow: must not contain a user" in refused.stderr
    assert "hunter2" not in refused.stderr


def test_check_tells_what_of_its_photos_cannot_be_reached(make_job: Callable[..., Job], server: WebServer) -> None:
    server.put("/500.jpg", status=500)
    job = make_job([row(COLLINS), row(f"{server.url}/500.jpg?sig=secret")], server.url)
    manifest, problems = job.folder / "manifest.parquet", job.folder / "problems.jsonl"
    checked = run("manifest", "check", manifest, "--photos", "--run", job.folder / "run.yaml", "--problems", problems)
    assert checked.exit_code == 2
    (problem,) = [json.loads(line) for line in problems.read_text().splitlines()]
    assert (problem["row"], problem["rule"]) == (1, f"PhotoUnreachable: {server.url}/500.jpg: HTTP 500")


def test_the_manifest_of_an_unreachable_place_is_one_message() -> None:
    for uri in ("s3://k:hunter2@b/m.parquet", "zip://a::http://me:hunter2@h:x/b", "http://me:hunt/er2@[::1/m", "az://"):
        refused = run("manifest", "check", uri)
        assert refused.exit_code in (2, 4)
        assert "hunter2" not in refused.output
        assert "er2" not in refused.output
