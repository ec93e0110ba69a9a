"""The report of a real run, in a real browser: what a person sees, filters, plays, decides and downloads."""

import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import COLLINS, HOPPER, given_up, row
from tests.heads import Head
from tests.jobs import Job, Result, invoke, wait_until
from tests.web import serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is in the group `test`")

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
HOSTILE = "</script><script>document.title = 'hacked'</script>"
IMAGE = '"><img src=x onerror="document.title=\'hacked\'">'
PLAYS = "video => new Promise(done => { const look = () => video.currentTime > 0 ? done() : setTimeout(look, 20); look(); })"
GIVEN_UP = "net::ERR_ABORTED"
"""A video that is no longer needed: the page was left while it loaded."""

QUALITY = {"likeness": {"min_face_share": 0.0}, "technical": False, "num_frames": 2}

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, face_pack: Path, head: Head) -> Job:
    """Three clips, with names and prompts of an attacker, and a row whose photo shows nobody."""
    folder = tmp_path_factory.mktemp("report")
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / "nobody.png")
    rows = [
        row(COLLINS, "A person waves.", subject_id="eileen", clip_name="wave", tags={"campaign": "spring"}),
        row(HOPPER, HOSTILE, subject_id=IMAGE),
        row(HOPPER, f"a\u2028b {IMAGE}", subject_id=HOSTILE),
        row(folder / "nobody.png", "A person smiles.", subject_id="nobody"),
    ]
    return Job(
        folder=folder, face_pack=face_pack, rows=rows, steps=1, settings={"quality": QUALITY}, deadline_s=400, head=head
    )


@pytest.fixture(scope="module")
def run(job: Job) -> Result:
    return job.run()


@pytest.fixture(scope="module")
def index(job: Job, run: Result) -> Path:
    """The report that the run itself has written."""
    (index,) = Path(job.output).glob("report/run=*/index.html")
    return index


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as tools:
        yield tools.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)


@pytest.fixture
def page(browser: object, index: Path) -> Iterator[object]:
    """The report, opened from its file. Whatever a test does with it, the console must stay empty."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"{request.failure}: {request.url}"))
    page.goto(index.as_uri())
    yield page
    context.close()
    assert [text for text in said if not text.startswith(GIVEN_UP)] == []


def names(page: object) -> list[str]:
    """The clips that are shown."""
    return page.locator("#sheet > li h3").all_inner_texts()


def expect_clips(page: object, number: int) -> None:
    playwright.expect(page.locator("#sheet > li")).to_have_count(number)


def reloaded_tally(page: object) -> str:
    """On a loaded machine, Chromium writes its store so late that a reload at once may not see it, and the next one does."""
    page.reload()
    return str(page.locator("#tally").inner_text())


def test_a_run_ends_with_its_report(run: Result, index: Path) -> None:
    assert run.exit_code == 3, run.stderr
    assert run.stdout.splitlines()[-1] == f"report: {index}"


def test_what_strangers_write_is_shown_as_text(page: object, job: Job) -> None:
    assert "hacked" not in page.title()
    shown = page.locator("#sheet > li .prompt").all_text_contents()
    assert shown == [str(row["prompt"]) for row in job.metadata()]
    assert HOSTILE in shown
    assert page.locator("#sheet > li .who p").all_text_contents() == ["eileen", IMAGE, HOSTILE, "nobody"]
    assert page.locator("h1").inner_text() == "3 of 4 clips rendered"


def test_every_filter_and_order_does_what_it_says(page: object, job: Job) -> None:
    assert page.locator("#found").inner_text() == "4 clips"
    first, second, third, nobody = all_names = names(page)
    for field, value, expected in (
        ("outcome", "rejected", [nobody]),
        ("subject", "eileen", [first]),
        ("prompt", HOSTILE, [second]),
    ):
        page.select_option(f"select[name={field}]", value)
        assert names(page) == expected, field
        page.get_by_role("button", name="Reset").click()
        expect_clips(page, 4)
    for text, expected in (("WAVE spring", [first]), ("NoFaceFound", [nobody]), ("onerror", [second, third])):
        page.fill("input[name=text]", text)
        assert names(page) == expected, text
    page.fill("input[name=text]", "")
    page.select_option("select[name=score]", "likeness_face_share")
    page.fill("input[name=least]", "0")
    assert names(page) == [first, second, third]
    page.fill("input[name=least]", "1.5")
    assert names(page) == []
    page.get_by_role("button", name="Reset").click()
    expect_clips(page, 4)
    page.select_option("select[name=sort]", "outcome")
    assert names(page)[0] == nobody
    shares = [row["likeness_face_share"] for row in job.metadata()[:3]]
    page.select_option("select[name=sort]", "-likeness_face_share")
    by_share = sorted(range(3), key=lambda position: (-shares[position], position))
    assert names(page) == [*(all_names[position] for position in by_share), nobody]
    page.get_by_role("button", name="show").click()
    expect_clips(page, 1)
    assert names(page) == [nobody]


def test_a_clip_plays_where_it_is(page: object) -> None:
    page.get_by_role("button", name="Play wave").click()
    video = page.locator("#sheet > li").first.locator("video")
    video.evaluate(PLAYS)
    assert video.evaluate("video => video.videoWidth") == 64


def test_a_web_server_shows_the_same(page: object, job: Job, index: Path) -> None:
    with serving(partial(SimpleHTTPRequestHandler, directory=job.output)) as address:
        page.goto(f"http://{address}/{index.relative_to(job.output)}")
        page.locator("#sheet img").first.evaluate("image => image.decode()")
        page.get_by_role("button", name="Play wave").click()
        page.locator("video").evaluate(PLAYS)
        page.goto("about:blank")  # the browser lets go of the server


def test_photos_and_posters_are_shown(page: object) -> None:
    pictures = page.locator("#sheet img")
    assert pictures.count() == 7
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        picture.evaluate("image => image.decode()")


def test_decisions_are_kept_and_the_commands_take_their_csv(page: object, job: Job, tmp_path: Path) -> None:
    wave, nobody = page.locator("#sheet > li").first, page.locator("#sheet > li").last
    wave.get_by_role("button", name="Approve").click()
    nobody.get_by_role("button", name="Try again").click()
    second = page.locator("#sheet > li").nth(1)
    second.get_by_role("button", name="Approve").focus()
    page.keyboard.press("r")
    assert page.locator("#tally").inner_text() == "1 approved, 2 rejected"
    wait_until(lambda: reloaded_tally(page) == "1 approved, 2 rejected")
    assert wave.get_by_role("button", name="Approve").get_attribute("aria-pressed") == "true"
    page.select_option("select[name=decision]", "reject")
    assert page.locator("#sheet > li").count() == 2
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    decisions = tmp_path / "decisions.csv"
    download.value.save_as(decisions)
    ids = [str(row["clip_id"]) for row in job.metadata()]
    lines = decisions.read_bytes().decode().split("\r\n")
    assert (lines[0], lines[-1]) == ("clip_id,decision", "")
    assert sorted(lines[1:-1]) == sorted([f"{ids[0]},approve", f"{ids[1]},reject", f"{ids[3]},reject"])

    assert set(given_up(job.output)) == {ids[3]}
    told = invoke("retry", job.output, "--list", decisions)
    assert "1 clip will be tried again" in told.stdout, told.output
    assert given_up(job.output) == {}
    exported = invoke("export", job.output, tmp_path / "approved", "--list", decisions, "--name", "{clip_id}.mp4")
    assert exported.exit_code == 0, exported.output
    assert [file.name for file in (tmp_path / "approved").glob("*.mp4")] == [f"{ids[0]}.mp4"]


def test_nothing_is_wider_than_a_phone(page: object) -> None:
    page.set_viewport_size({"width": 360, "height": 780})
    page.locator("details").evaluate_all("all => all.forEach((details) => { details.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_reader_finds_nothing_to_object_to(page: object, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python of the group `test`")
    page.emulate_media(color_scheme=scheme)
    page.locator("#sheet > li").first.get_by_role("button", name="Approve").click()
    page.locator("details").evaluate_all("all => all.forEach((details) => { details.open = true })")
    page.evaluate(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations.map((rule) => [rule.id, rule.nodes[0].html])")
    assert found == []
