"""The report of a run: its figures, its pages, and what it writes to an output location."""

import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from structlog.testing import capture_logs

from lynx_batch import storage
from lynx_batch.cli.report import report_after_run
from lynx_batch.clip import ClipSpec
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.metadata import METADATA_SCHEMA, Outcome, RowOutcome
from lynx_batch.ledger.pace import Cost
from lynx_batch.ledger.runs import RunEnd, RunRecord, write_run_end, write_run_record
from lynx_batch.ledger.spending import SpentRecord, write_spent
from lynx_batch.ledger.tries import BestTry, TryRecord, record_try
from lynx_batch.report import pages, photos, write
from lynx_batch.report.figures import sum_up
from lynx_batch.report.gather import RunRows
from lynx_batch.report.pages import MAX_ROWS_A_PAGE, RunFacts, build_pages, split
from lynx_batch.report.rows import ReportRow
from lynx_batch.report.trace import Trace, write_trace
from lynx_batch.report.varied import VARYING, find_axes, value_of
from lynx_batch.report.write import write_report
from tests import crashes
from tests.builders import (
    COLLINS,
    HOPPER,
    NOW,
    PARAMS,
    deliver,
    ended,
    make_clip,
    make_request,
    record,
    recorded_try,
    start_run,
    write_metadata,
)
from tests.jobs import invoke

HOSTILE = (
    "</script><script>document.title='hacked'</script>",
    '"><img src=x onerror="document.title=\'hacked\'">',
    "a\u2028b\u2029c &lt;b&gt; <!-- ",
    "{{ 7 * 7 }} {% raw %}",
)
RUN_IDS = ("before", "run", "after")
RUN = RunFacts(run_id="run", manifest="m.parquet", started_at=NOW, ended_at=NOW + timedelta(hours=2))


def shown(row: int = 0, **fields: object) -> ReportRow:
    known = {"name": f"clip-{row}", "outcome": Outcome.RENDERED, "clip_id": f"{row:032x}", "is_rendered_here": True}
    return ReportRow(row=row, **{**known, **fields})


def many(number: int, *, num_subjects: int) -> list[ReportRow]:
    """Rows as long as real ones."""
    return [
        shown(
            row,
            subject=f"customer-{row % num_subjects:06}",
            prompt=f"A person blows out the candles of a cake, version {row % 12}, and smiles at the camera.",
            clip_uri=f"clips/ab/{row:032x}/20261127T001323Z-0b1ef1-{row:08x}.mp4",
            poster_uri=f"clips/ab/{row:032x}/20261127T001323Z-0b1ef1-{row:08x}.jpg",
            scores={"likeness_mean": row % 100 / 100, "likeness_p10": 0.3, "likeness_face_share": 1.0},
            stage_s={"denoise": 90.0},
            seed=row,
        )
        for row in range(number)
    ]


def pages_of(rows: list[ReportRow], run: RunFacts = RUN) -> dict[str, str]:
    return dict(build_pages(run, sum_up(rows, Cost(gpu_hours=2.0, usd=None)), rows))


class Elements(HTMLParser):
    """The tags of a page, each with its attributes, and the text of its data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self._is_in_data = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._is_in_data = ("id", "data") in attrs

    def handle_data(self, data: str) -> None:
        if self._is_in_data:
            self.data += data

    def handle_endtag(self, tag: str) -> None:
        self._is_in_data = False


def data_of(html: str) -> list[dict[str, Any]]:
    return json.loads(Elements(html).data)["clips"]


# --- figures ---


def test_figures_count_every_row_once_and_name_reasons_by_frequency() -> None:
    failed = {"outcome": Outcome.FAILED, "error_type": "OutOfMemory", "is_rendered_here": False}
    rows = [
        shown(0, attempts=3, num_tries=2),
        shown(1, is_rendered_here=False, num_tries=4),
        shown(2, error="too big", **failed),
        shown(3, error="bigger", **failed),
        shown(4, outcome=Outcome.ABANDONED, is_rendered_here=False),
    ]
    figures = sum_up(rows, Cost(gpu_hours=0.5, usd=1.25))
    assert figures.counts == {"rendered": 2, "rejected": 0, "failed": 2, "abandoned": 1}
    assert [(r.outcome, r.error_type, r.num_rows, r.example) for r in figures.reasons] == [
        ("failed", "OutOfMemory", 2, "too big"),
        ("abandoned", "", 1, ""),
    ]
    assert (figures.num_rendered_here, figures.clips_per_gpu_hour, figures.usd) == (1, 2.0, 1.25)
    assert (figures.num_extra_tries, figures.num_extra_attempts) == (1, 2)


def test_tries_count_for_the_run_that_finished_their_clip_and_a_redo_that_was_given_up_is_told() -> None:
    redone = {"outcome": Outcome.REJECTED, "edition": 2, "in_force": 1, "num_tries": 3, "is_rendered_here": False}
    figures = sum_up([shown(0, attempts=1, **redone), shown(1, attempts=0, **redone)], None)
    assert (figures.num_extra_tries, figures.num_still_in_force) == (2, 2)
    html = pages_of([shown(0, **redone)])["index.html"]
    assert "1 row not rendered again by a redo: an older edition of the clip stays in force." in html
    (data,) = data_of(html)
    assert (data["inForce"], data["isOlder"]) == (1, True)
    (later,) = data_of(pages_of([shown(0, **redone | {"in_force": 2})])["index.html"])
    assert (later["inForce"], "isOlder" in later) == (2, False)


@pytest.mark.parametrize(
    ("outcome", "error_type", "again"),
    [
        (Outcome.FAILED, "OutOfMemory", True),
        (Outcome.REJECTED, "NoFaceFound", True),
        (Outcome.REJECTED, "UnsafeContent", False),
        (Outcome.REJECTED, "UnsafePhoto", False),
        (Outcome.REJECTED, "NotGoodEnough", False),
        (Outcome.REJECTED, "ConsentRevoked", False),
        (Outcome.ABANDONED, "", False),
    ],
)
def test_another_try_is_offered_only_where_retry_asks_for_one(outcome: Outcome, error_type: str, again: bool) -> None:
    row = shown(outcome=outcome, error_type=error_type, is_rendered_here=False)
    (data,) = data_of(pages_of([row])["index.html"])
    assert data.get("again", False) == again


def test_what_nobody_knows_is_no_figure() -> None:
    figures = sum_up([shown()], None)
    assert (figures.gpu_hours, figures.usd, figures.clips_per_gpu_hour, figures.num_extra_tries) == (None,) * 4
    assert (figures.likeness, figures.by_subject, figures.num_judged) == (None, (), 0)
    html = pages_of([shown()])["index.html"]
    assert "Likeness" not in html.partition("<body>")[2].partition("<script")[0]


def test_what_varies_is_summed_up_by_its_values() -> None:
    grid = [(scale, city) for scale in ("4", "10") for city in ("Köln", "Oslo")]
    rows = [
        shown(row, varied={"guidance_scale": scale, "tags.city": city}, scores={"likeness_mean": row / 10})
        for row, (scale, city) in enumerate(grid)
    ]
    rows.append(shown(4, outcome=Outcome.FAILED, varied={"guidance_scale": "4"}))
    figures = sum_up(rows, None)
    found = {
        axis.name: [(v.value, v.num_rows, v.num_rendered, round(v.likeness, 6)) for v in axis.values]
        for axis in figures.axes
    }
    assert found == {
        "guidance_scale": [("4", 3, 2, 0.05), ("10", 2, 2, 0.25)],
        "tags.city": [("Köln", 2, 2, 0.1), ("Oslo", 2, 2, 0.2)],
    }
    page = pages_of(rows)["index.html"]
    assert page.count("By <bdi>") == 2
    assert "<bdi>Köln</bdi>" in page


def test_what_varies_is_found_in_the_metadata() -> None:
    rows = [
        {
            "guidance_scale": scale,
            "width": width,
            "height": 1312 - width,
            "seed": seed,
            "tags": [("city", city), ("id", str(seed)), ("utm.source", str(scale)), ("[x]", city), ("", city)],
        }
        for seed, (scale, width, city) in enumerate(product((4.0, 5.0), (480, 832), ("Köln", "Oslo")))
    ]
    rows[0]["tags"] = None
    table = pa.Table.from_pylist(rows, METADATA_SCHEMA)
    axes = find_axes(table.select([*VARYING]), table["tags"])
    assert axes == ["guidance_scale", "size", "tags.city", "tags[utm.source]"]
    assert value_of(table.slice(1, 1).to_pylist()[0], "tags[utm.source]") == "4.0"
    assert [value_of(row, "size") for row in table.slice(0, 1).to_pylist()] == ["480x832"]


def test_likeness_is_summed_up_by_subject_and_prompt_with_the_least_alike_first() -> None:
    likeness = [("ada", "waves", 0.8), ("ada", "smiles", 0.6), ("bob", "waves", 0.2)]
    rows = [shown(n, subject=s, prompt=p, scores={"likeness_mean": m}) for n, (s, p, m) in enumerate(likeness)]
    rows.append(shown(3, outcome=Outcome.REJECTED, subject="eve", scores={"likeness_mean": -0.1}))
    figures = sum_up(rows, None)
    assert [(g.name, g.num_clips, g.least, round(g.mean, 6), g.greatest) for g in figures.by_subject] == [
        ("bob", 1, 0.2, 0.2, 0.2),
        ("ada", 2, 0.6, 0.7, 0.8),
    ]
    assert [group.name for group in figures.by_prompt] == ["waves", "smiles"]
    assert (sum(figures.bins), figures.num_judged) == (3, 3)


# --- pages ---


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_others_is_never_markup(text: str) -> None:
    fields = dict.fromkeys(("name", "subject", "prompt", "error", "error_type", "clip_id", "device"), text)
    rows = [
        shown(n, **fields, outcome=outcome, tags={text: text}, scores={"likeness_mean": 0.5})
        for n, outcome in enumerate(Outcome)
    ]
    rows[0] = replace(rows[0], subject="another", prompt="another")
    rows.append(replace(rows[0], row=9, subject=text, prompt=text))
    run = replace(RUN, run_id=text, manifest=text, stopped_by=text, photo_note=text)
    html = pages_of(rows, run)["index.html"]
    page = Elements(html)
    assert [tag for tag, _ in page.tags].count("script") == 2, "the data and ours"
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert json.loads(page.data)["run"] == text
    assert {clip["name"] for clip in data_of(html)} == {text}
    assert "\u2028" not in page.data


def test_a_zero_is_known_and_a_seed_keeps_its_digits() -> None:
    row = shown(0, scores={"likeness_mean": 0.0}, seed=2**63 - 2)
    (clip,) = data_of(pages_of([row])["index.html"])
    assert (clip["row"], clip["scores"], clip["seed"]) == (0, {"likeness_mean": 0.0}, "9223372036854775806")


def test_a_page_allows_its_own_script_and_style_alone() -> None:
    html = pages_of([shown()])["index.html"]
    (policy,) = (a["content"] for _, a in Elements(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        source = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[-1]
        digest = b64encode(sha256(source.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_run_of_two_thousand_clips_is_one_small_page() -> None:
    pages = pages_of(many(2_000, num_subjects=500))
    assert list(pages) == ["index.html"]
    assert len(pages["index.html"].encode()) < 2e6
    assert len(data_of(pages["index.html"])) == 2_000


@pytest.mark.slow
def test_a_run_of_a_hundred_thousand_clips_has_an_index_and_pages_by_subject() -> None:
    pages = pages_of(many(100_000, num_subjects=30_000))
    sizes = {name: len(html.encode()) for name, html in pages.items()}
    assert sizes["index.html"] < 5e6
    assert max(sizes.values()) < 5e6
    assert list(pages)[-1] == "index.html"
    linked = {attributes.get("href") for tag, attributes in Elements(pages["index.html"]).tags if tag == "a"}
    assert pages.keys() - {"index.html"} <= linked
    clips = [data_of(html) for name, html in pages.items() if name != "index.html"]
    assert sorted(clip["row"] for page in clips for clip in page) == list(range(100_000))
    subjects = [{clip["subject"] for clip in page} for page in clips]
    assert sum(map(len, subjects)) == 30_000, "no subject is on two pages"


def test_only_a_subject_that_fills_a_page_is_divided() -> None:
    sizes = {"ada": 10, "bob": MAX_ROWS_A_PAGE + 5, "eve": MAX_ROWS_A_PAGE - 5, "zoe": 1}
    subjects = [subject for subject, number in sizes.items() for _ in range(number)]
    pages = list(split([shown(row, subject=subject) for row, subject in enumerate(subjects)]))
    found = [{subject: [row.subject for row in page].count(subject) for subject in sizes} for page in pages]
    assert [{s: n for s, n in page.items() if n} for page in found] == [
        {"ada": 10},
        {"bob": MAX_ROWS_A_PAGE},
        {"bob": 5, "eve": MAX_ROWS_A_PAGE - 5},
        {"zoe": 1},
    ]


# --- what is written ---


def wanted(clip_id: str, row: int, photo: Path = COLLINS, **fields: object) -> ClipSpec:
    """A clip of a real photo."""
    request = make_request(PARAMS, row=row, subject_uri=str(photo), **fields)
    return make_clip(clip_id, request, photo_sha256=sha256(photo.read_bytes()).hexdigest())


def rendered(output: str, clip: ClipSpec) -> RowOutcome:
    """The clip's row, with a real video and poster."""
    frames = np.random.default_rng(0).integers(0, 255, (5, 48, 64, 3), np.uint8)
    delivered = deliver(frames, output=output, clip_id=clip.clip_id, attempt="run-1")
    committed = commit(output, record(clip.clip_id).model_copy(update=asdict(delivered)))
    return replace(ended(Outcome.RENDERED, clip), commit=committed)


def finish(output: str, rows: Iterable[RowOutcome], run_yaml: bytes = b"") -> None:
    """A run with these rows, which has ended."""
    rows = list(rows)
    manifest = pa.table({"row": [0], "subject_uri": ["a.jpg"]})
    started = RunRecord(started_at=NOW, num_rows=len(rows), manifest="m.parquet")
    write_run_record(output, "run", started, run_yaml=run_yaml, manifest=manifest, environment={})
    write_metadata(output, "run", rows)
    counts = Counter(row.outcome for row in rows)
    write_run_end(output, "run", RunEnd(ended_at=NOW + timedelta(hours=1), counts=counts))


def files_of(output: str) -> set[str]:
    folder = storage.join(output, "report", "run=run")
    return {file.uri.removeprefix(folder).strip("/") for file in storage.list_files(folder)}


def photo_of(photo: Path) -> str:
    return f"photos/{sha256(photo.read_bytes()).hexdigest()}.jpg"


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Two rendered clips of two people, and one that failed."""
    output = str(tmp_path / "out")
    rows = [rendered(output, wanted("aa11", 0)), rendered(output, wanted("bb22", 1, HOPPER, subject_id="grace"))]
    finish(output, [*rows, ended(Outcome.FAILED, wanted("cc33", 2, HOPPER))])
    return output


def test_a_report_links_photos_posters_and_videos_that_exist(output: str) -> None:
    index = Path(write_report(output))
    assert index == Path(output, "report", "run=run", "index.html")
    clips = data_of(index.read_text(encoding="utf-8"))
    assert [(clip["row"], clip["outcome"], clip["subject"]) for clip in clips] == [
        (0, "rendered", COLLINS.name),
        (1, "rendered", "grace"),
        (2, "failed", HOPPER.name),
    ]
    assert clips[2]["reason"] == "OutOfMemory: too big"
    for clip in clips[:2]:
        assert (index.parent / "../.." / clip["video"]).resolve().stat().st_size > 100
        assert (index.parent / "../.." / clip["poster"]).resolve().stat().st_size > 100
    for clip in clips:
        with Image.open(index.parent / clip["photo"]) as small:
            assert (max(small.size), small.format) == (photos.SMALL_PX, "JPEG")
            assert not small.getexif()


def test_a_report_without_photos_removes_those_of_an_earlier_one_and_nothing_else(output: str) -> None:
    write_trace(output, "run", Trace())
    write_report(output)
    assert files_of(output) == {"index.html", "trace.json", photo_of(COLLINS), photo_of(HOPPER)}
    storage.write_bytes(storage.join(output, "report", "run=run", "clips-001.html"), b"of a larger report")
    storage.write_bytes(storage.join(output, "report", "run=run", "notes.txt"), b"the user's own")
    write_report(output, has_photos=False)
    assert files_of(output) == {"index.html", "trace.json", "notes.txt"}


def test_the_run_file_decides_about_photos_unless_the_command_does(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    finish(output, [rendered(output, wanted("aa11", 0))], b"report: {photos: false}")
    write_report(output)
    assert files_of(output) == {"index.html"}
    write_report(output, has_photos=True)
    assert files_of(output) == {"index.html", photo_of(COLLINS)}


@pytest.mark.parametrize("content", [b"report: {photos: maybe}", b"- a list", b": :", b"\xff"])
def test_no_photos_are_shown_if_the_run_file_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    output = str(tmp_path / "out")
    finish(output, [rendered(output, wanted("aa11", 0))], content)
    write_report(output)
    assert files_of(output) == {"index.html"}


def test_too_many_photos_are_left_out_and_the_page_says_how_to_add_them(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MAX_PHOTOS", 1)
    index = write_report(output)
    assert files_of(output) == {"index.html"}
    assert "there are 2 of them: `lynx-batch report OUT --photos`" in Path(index).read_text(encoding="utf-8")
    write_report(output, has_photos=True)
    assert photo_of(COLLINS) in files_of(output)


def test_a_photo_that_changed_is_gone_or_lost_its_consent_is_not_shown(tmp_path: Path) -> None:
    output, changed = str(tmp_path / "out"), tmp_path / "changed.jpg"
    changed.write_bytes(COLLINS.read_bytes())
    ended_consent = wanted("bb22", 1, HOPPER, consent_expires_at=datetime.now(UTC) - timedelta(seconds=1))
    rows = [rendered(output, wanted("aa11", 0, changed)), rendered(output, ended_consent)]
    gone = wanted("cc33", 2, changed)
    gone = replace(gone, request=replace(gone.request, subject_uris=(str(tmp_path / "gone.jpg"),)))
    rows.append(rendered(output, replace(gone, portraits=(replace(gone.portraits[0], sha256="5" * 64),))))
    finish(output, rows)
    changed.write_bytes(HOPPER.read_bytes())
    clips = data_of(Path(write_report(output)).read_text(encoding="utf-8"))
    assert files_of(output) == {"index.html"}
    assert ["photo" in clip for clip in clips] == [False] * 3
    assert [clip.get("consent") for clip in clips] == [None, "over", None]


def test_what_is_revoked_vanishes_from_reports_and_stays_away(output: str) -> None:
    write_report(output)
    revoked = invoke("revoke", output, "--photo-sha256", sha256(HOPPER.read_bytes()).hexdigest(), "--yes")
    assert revoked.exit_code == 0, revoked.output
    assert files_of(output) == {"index.html", photo_of(COLLINS)}

    kept, taken_back, failed = data_of(Path(write_report(output)).read_text(encoding="utf-8"))
    assert files_of(output) == {"index.html", photo_of(COLLINS)}
    assert [clip.get("consent") for clip in (kept, taken_back, failed)] == [None, "revoked", "revoked"]
    assert {"photo", "poster", "video"} <= kept.keys()
    assert not {"photo", "poster", "video"} & taken_back.keys()


def test_a_photo_that_kills_its_reader_is_left_out_and_the_others_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in crashes.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    output, killer = str(tmp_path / "out"), crashes.write_crashing(tmp_path / "killer.jpg", COLLINS)
    finish(output, [rendered(output, wanted("aa11", 0, killer)), rendered(output, wanted("bb22", 1, HOPPER))])
    write_report(output)
    assert files_of(output) == {"index.html", photo_of(HOPPER)}


def test_a_slow_store_does_not_hold_up_a_report(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "WITHIN_S", -1.0)
    write_report(output)
    assert files_of(output) == {"index.html"}


def test_a_run_that_goes_on_with_an_edition_does_not_count_the_tries_of_earlier_runs(tmp_path: Path) -> None:
    output, clip, fresh = str(tmp_path / "out"), wanted("dd44", 0), wanted("ee55", 1)
    for number in range(4):
        recorded_try(output, number, clip_id="dd44")
    best = BestTry(number=0, seed=1, scores={}, num_tries=2)
    start_run(output, "before", minutes=-60)
    write_metadata(output, "before", [replace(ended(Outcome.REJECTED, clip), best=best)])
    judged = [
        replace(ended(Outcome.RENDERED, each), commit=record(each.clip_id).model_copy(update={"num_tries": number}))
        for each, number in ((clip, 4), (fresh, 3))
    ]
    finish(output, judged)
    start_run(output, "after", minutes=60)
    write_metadata(output, "after", judged)

    extra = {run_id: [row.num_extra_tries for row in RunRows(output, run_id, NOW).all()] for run_id in RUN_IDS}
    assert extra == {"before": [1], "run": [2, 2], "after": [0, 0]}


def test_a_clip_that_the_gate_rejected_shows_its_best_try_that_was_kept(tmp_path: Path) -> None:
    output, clip = str(tmp_path / "out"), wanted("dd44", 0)
    for number, (p10, unsafe) in enumerate([(0.1, False), (0.2, False), (0.9, True)]):
        attempt = f"run-{number}"
        if number == 1:
            deliver(np.zeros((5, 48, 64, 3), np.uint8), output=output, clip_id="dd44", attempt=attempt)
        judged = TryRecord(
            **{"clip_id": "dd44", "edition": 1, "number": number, "judged_at": NOW, "scorers": {}, "is_unsafe": unsafe},
            scores={"likeness_p10": p10, "other": 1.0},
            commit=record("dd44", attempt),
        )
        record_try(output, judged, is_store_safe=True)
    finish(output, [ended(Outcome.REJECTED, clip)])
    (row,) = RunRows(output, "run", NOW).shown(1)
    assert (row.num_tries, row.try_number, row.scores) == (3, 1, {"likeness_p10": 0.2})
    assert (row.clip_uri, row.poster_uri) == ("clips/dd/dd44/run-1.mp4", "clips/dd/dd44/run-1.jpg")


def test_the_cost_is_what_the_run_recorded_at_its_own_price_or_another(output: str) -> None:
    assert "Cost" not in Path(write_report(output, has_photos=False)).read_text(encoding="utf-8")
    write_spent(output, "run", SpentRecord(at=NOW, limit=None, gpu_s={"H100": 5400, "other": 18}, usd=0.0042))
    html = Path(write_report(output, has_photos=False)).read_text(encoding="utf-8")
    assert "1.50 GPU-hours" in html
    assert "$0.0042" in html
    assert "$150.50" in Path(write_report(output, usd_per_gpu_hour=100)).read_text(encoding="utf-8")


def test_a_huge_run_shows_a_part_of_its_rows_and_counts_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "MAX_SHOWN", 3)
    monkeypatch.setattr(pages, "MAX_ROWS_A_PAGE", 2)
    output = str(tmp_path / "out")
    good = [ended(Outcome.RENDERED, wanted(f"a{number:x}", number)) for number in range(9)]
    finish(output, [*good, *(ended(Outcome.FAILED, row=number) for number in (9, 10))])

    index = Path(write_report(output, has_photos=False))

    html = index.read_text(encoding="utf-8")
    assert "9 of 11 clips rendered" in html
    assert "5 of 11 rows are shown" in html
    clips = [clip for page in sorted(index.parent.glob("clips-*.html")) for clip in data_of(page.read_text("utf-8"))]
    assert sorted(clip["row"] for clip in clips) == [0, 4, 8, 9, 10]


def test_a_report_of_an_unknown_run_is_refused(output: str) -> None:
    with pytest.raises(ConfigError, match="--run 'other': must be a run of"):
        write_report(output, "other")


def test_a_store_takes_a_report_as_a_folder_does() -> None:
    output = "memory://reports/out"
    finish(output, [rendered(output, wanted("aa11", 0))])
    index = write_report(output)
    assert index == "memory://reports/out/report/run=run/index.html"
    assert files_of(output) == {"index.html", photo_of(COLLINS)}


def test_the_command_says_where_the_report_is(output: str) -> None:
    told = invoke("report", output, "--usd-per-gpu-hour", "2.5", "--no-photos")
    assert told.exit_code == 0, told.stderr
    assert told.stdout == f"report: {output}/report/run=run/index.html\n"
    unknown = invoke("report", output, "--run", "other")
    assert (unknown.exit_code, "--run 'other': must be a run of" in unknown.stderr) == (2, True)


def test_a_report_that_cannot_be_written_is_a_warning(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with capture_logs() as unknown:
        report_after_run(output, "other")

    def broken(*_: object, **__: object) -> None:  # a bug of ours has no real cause to use
        raise ZeroDivisionError

    monkeypatch.setattr(write, "write_report", broken)
    with capture_logs() as bug:
        report_after_run(output, "run")
    assert [event["event"] for event in (*unknown, *bug)] == ["report_unwritten"] * 2
    assert "--run 'other': must be a run of" in unknown[0]["error"]
