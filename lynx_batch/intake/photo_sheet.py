"""Writes one HTML file that shows each photo, its aligned face and its verdict. It needs no network and no script.

It is written photo by photo, so no more than a few are ever in memory. Its style sheet sorts them by verdict and moves the counts, which
are known last, to the top.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import PurePosixPath
from typing import TextIO

from lynx_batch.intake.faces import Finding, PhotoFace, PhotoReport
from lynx_batch.intake.photos import PhotoProblem
from lynx_batch.printable import printable
from lynx_batch.storage import redact

CANNOT_BE_USED = "cannot be used"
"""The verdict on a face that `render` would refuse."""

HEAD = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="generator" content="lynx-batch photo sheet">\n'
"""How each sheet begins. A file that begins so may be replaced by another sheet."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

VERDICTS = {CANNOT_BE_USED: "refused", "will disappoint": "poor", "usable": "usable", "good": "good"}
"""All verdicts, the worst first, and their classes in the style sheet."""

STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { margin: 1.5rem; background: Canvas; color: CanvasText; display: flex; flex-direction: column }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; order: -2 }
p { margin: .2rem 0; order: -1 }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(29rem, 100%), 1fr)); gap: 1rem; margin: 1rem 0 }
article { border: 1px solid color-mix(in srgb, CanvasText 20%, Canvas); border-top: 4px solid var(--hue); border-radius: 6px;
  padding: .8rem; overflow-wrap: anywhere }
figure { display: inline-block; margin: 0 .6rem .4rem 0; vertical-align: top }
figcaption, small { font-size: .8rem; opacity: .7 }
img { display: block; height: 11rem; max-width: 100%; object-fit: contain; background: #8883 }
h2 { font-size: 1rem; margin: 0 0 .5rem }
b { color: var(--hue) }
ul { margin: .3rem 0 .5rem; padding-left: 1.2rem }
.refused { --hue: #8a63d2; order: 1 } .poor { --hue: #d64545; order: 2 } .usable { --hue: #b7791f; order: 3 }
.good { --hue: #2f9e58; order: 4 }
"""


class PhotoSheet:
    """Writes a sheet into `file`, photo by photo. Errors of the file's system, OSError, are the caller's."""

    def __init__(self, file: TextIO, manifest: str) -> None:
        self._file = file
        self._counts = Counter[str]()
        title = escape(printable(f"Photos of {redact(manifest)}"))
        file.write(
            f'{HEAD}<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
            "<p>Each photo with its faces framed, and the aligned face as the model reads it. The worst come first.</p>\n<main>\n"
        )

    def add(self, report: PhotoReport) -> None:
        verdict, reasons = describe(report.finding)
        self._counts[verdict] += 1
        uri = redact(report.face[0])
        items = "".join(f"<li>{_safe(reason)}</li>" for reason in reasons)
        self._file.write(
            f'<article class="{VERDICTS[verdict]}">\n<h2>{_safe(name_face(report.face))}: <b>{verdict}</b></h2>\n'
            f"{_figure(report.photo_jpeg, 'photo')}{_figure(report.crop_jpeg, 'what the model reads')}\n"
            f"{f'<ul>{items}</ul>' if items else ''}<small>{_safe(uri)}</small>\n</article>\n"
        )

    def end(self) -> None:
        self._file.write(f"</main>\n<p><strong>{_safe(count_verdicts(self._counts))}</strong></p>\n</body>\n</html>\n")


def describe(finding: Finding) -> tuple[str, tuple[str, ...]]:
    """The verdict on a face, and the reasons for it."""
    if isinstance(finding, PhotoProblem):
        return CANNOT_BE_USED, (f"{finding.error_type}: {finding.error}",)
    return finding.judgement.verdict.value, finding.judgement.reasons


def name_face(face: PhotoFace) -> str:
    """The photo's file name, and which face is meant if the manifest says so."""
    uri, index = face
    name = PurePosixPath(redact(uri)).name
    return name if index is None else f"{name} (face {index})"


def count_verdicts(counts: Mapping[str, int]) -> str:
    """Such as "photos: 1 will disappoint, 12 good"."""
    return "photos: " + (
        ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts.get(verdict)) or "none"
    )


def _figure(jpeg: bytes, caption: str) -> str:
    if not jpeg:
        return ""
    data = b64encode(jpeg).decode("ascii")
    return (
        f'<figure><img loading="lazy" alt="{caption}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _safe(text: str) -> str:
    return escape(printable(text))
