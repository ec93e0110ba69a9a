"""The web page that shows the photos of a manifest: whole, harmless and written photo by photo."""

from html.parser import HTMLParser
from io import StringIO

from lynx_batch.intake.faces import PhotoReport, UsableFace
from lynx_batch.intake.photo_sheet import HEAD, VERDICTS, PhotoSheet, describe
from lynx_batch.intake.photos import PhotoProblem
from lynx_model.faces.photo_quality import Judgement, Verdict

NO_END = {"meta", "img"}
HOSTILE = 's3://bucket/"><script>alert(1)</script>\x1b\u202e&.jpg?X-Amz-Signature=secret'


class Reader(HTMLParser):
    """The tags of a page, each closed in its turn, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in NO_END:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report(uri: str, verdict: Verdict = Verdict.GOOD, *reasons: str, index: int | None = None) -> PhotoReport:
    seen = UsableFace(turned_degrees=0, judgement=Judgement(verdict=verdict, reasons=reasons))
    return PhotoReport(face=(uri, index), finding=seen, photo_jpeg=b"photo", crop_jpeg=b"crop")


def refused(uri: str, error: str) -> PhotoReport:
    return PhotoReport(face=(uri, None), finding=PhotoProblem(error_type="NoFaceFound", error=error))


def page_of(*reports: PhotoReport) -> str:
    file = StringIO()
    sheet = PhotoSheet(file, "s3://bucket/<i>m.parquet?sig=secret")
    for one in reports:
        sheet.add(one)
    sheet.end()
    return file.getvalue()


def test_a_page_is_whole_and_needs_nothing_else() -> None:
    page = page_of(report("a.jpg"), report("b.jpg", Verdict.POOR, "1 < 2", "dark"), refused("c.jpg", "no face"))
    reader = Reader(page)
    assert page.startswith(HEAD)
    assert reader.open == []
    assert reader.tags.count("img") == 4
    assert "script" not in reader.tags
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert "http://" not in page
    assert "https://" not in page
    for text in ("a.jpg: good", "b.jpg: will disappoint", "1 < 2", "c.jpg: cannot be used", "NoFaceFound: no face"):
        assert text in reader.text
    assert "photos: 1 cannot be used, 1 will disappoint, 1 good" in reader.text


def test_names_and_reasons_are_text_and_tell_no_secret() -> None:
    page = page_of(report(HOSTILE, Verdict.USABLE, "<b>bold</b>", index=1), refused(HOSTILE, "<script>"))
    reader = Reader(page)
    assert reader.open == []
    assert "script" not in reader.tags
    assert "<b>bold</b>" in reader.text
    assert "(face 1): usable" in reader.text
    for hidden in ("secret", "\x1b", "\u202e"):
        assert hidden not in page


def test_each_photo_is_written_when_it_is_added() -> None:
    file = StringIO()
    sheet = PhotoSheet(file, "m.parquet")
    before = file.tell()
    sheet.add(report("a.jpg"))
    assert "a.jpg: <b>good</b>" in file.getvalue()[before:]


def test_every_verdict_has_its_place_and_colour() -> None:
    assert [describe(refused("a", "b").finding)[0], *reversed(Verdict)] == list(VERDICTS)
    assert all(f".{name} {{ --hue" in page_of() for name in VERDICTS.values())


def test_a_page_without_photos_says_so() -> None:
    assert "photos: none" in Reader(page_of()).text
