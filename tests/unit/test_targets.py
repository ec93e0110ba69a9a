"""No command replaces a file of another kind than it writes, an input least of all."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lynx_batch import storage
from lynx_batch.cli import app
from lynx_batch.intake.manifest import read_manifest
from tests.stores import refusing_store

CSV = "subject_uri,prompt\na.jpg,A person waves.\n"


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.csv").write_text(CSV, encoding="utf-8")
    Path("link.parquet").symlink_to("c.csv")
    os.link("c.csv", "hard.parquet")
    Path("run.yaml").write_text("manifest: m.parquet\n", encoding="utf-8")
    Path("sub").mkdir()
    pq.write_table(pa.table({"price": [1]}), "prices.parquet")
    Path("torn.parquet").write_bytes(b"PAR1 and no more")


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.mark.parametrize(
    "out",
    [
        *("c.csv", "./sub/../c.csv", "link.parquet", "hard.parquet", "run.yaml", "prices.parquet", "torn.parquet"),
        *("sub", "sub/", "/dev/null"),
    ],
)
def test_a_manifest_is_not_built_over_what_is_none(out: str) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert f"--out {out}: must be" in refused("manifest", "build", "--from", "c.csv", "--out", out)
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    assert Path("/dev/null").is_char_device()


def test_a_manifest_and_an_empty_file_are_built_over() -> None:
    Path("m.parquet").touch()
    for _ in range(2):
        assert CliRunner().invoke(app, ["manifest", "build", "--from", "c.csv", "--out", "m.parquet"]).exit_code == 0
    assert read_manifest("m.parquet").num_rows == 1


def test_neither_is_one_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_store(monkeypatch):
        storage.write_bytes("s3://bucket/c.csv", CSV.encode())
        told = refused("manifest", "build", "--from", "s3://bucket/c.csv", "--out", "s3://bucket/c.csv")
        assert "must be new or a manifest" in told
        assert storage.read_bytes("s3://bucket/c.csv") == CSV.encode()


@pytest.mark.parametrize("out", ["memory://m.parquet", "simplecache::s3://bucket/m.parquet", "http://host/m.parquet"])
def test_a_manifest_is_built_only_where_it_stays(out: str) -> None:
    assert "must be a path or a URI" in refused("manifest", "build", "--from", "c.csv", "--out", out)


def test_problems_go_to_no_file_of_another_kind() -> None:
    Path("old.jsonl").write_text('{"subject_uri": "a.jpg"}\n', encoding="utf-8")
    for name in ("c.csv", "run.yaml", "prices.parquet", "old.jsonl"):
        before = Path(name).read_bytes()
        assert "must be new or a list of problems" in refused("manifest", "check", "prices.parquet", "--problems", name)
        assert Path(name).read_bytes() == before


def test_a_photo_sheet_goes_to_no_file_of_another_kind() -> None:
    Path("page.html").write_text("<!doctype html>\n<title>Mine</title>\n", encoding="utf-8")
    for name in ("c.csv", "run.yaml", "prices.parquet", "page.html", "sub"):
        before = Path(name).read_bytes() if Path(name).is_file() else b""
        told = refused("manifest", "check", "prices.parquet", "--photos", "--sheet", name)
        assert f"--sheet {name}: must be" in told
        assert before == (Path(name).read_bytes() if Path(name).is_file() else b"")


def test_problems_replace_earlier_problems() -> None:
    pq.write_table(pa.table({"subject_uri": ["a.jpg"], "prompt": [""]}), "m.parquet")
    for _ in range(2):
        CliRunner().invoke(app, ["manifest", "check", "m.parquet", "--problems", "p.jsonl"])
        assert json.loads(Path("p.jsonl").read_text(encoding="utf-8"))["column"] == "prompt"


def test_a_clip_replaces_no_photo_and_no_prompt() -> None:
    for name in ("c.csv", "run.yaml"):
        assert "must be new or an MP4" in refused("one", "a.jpg", "A person waves.", "--out", name)
    Path("old.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    assert "must be new" not in refused("one", "a.jpg", "A person waves.", "--out", "old.mp4", "--run", "run.yaml")


def test_a_bench_replaces_nothing_but_a_report() -> None:
    for command in (["engine"], ["scaling", "--gpus", "2"]):
        before = Path("run.yaml").read_bytes()
        refused("bench", *command, "--json", "run.yaml")
        assert Path("run.yaml").read_bytes() == before
