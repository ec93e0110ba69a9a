"""The first step, on a CPU: portraits, places, prompts and the recogniser -> the files that training reads, and sheets to look at.

What is there stays: delete a file to have it made again.
"""

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.demo.training.axes import ALL_SCENES, PLACES, Scene
from jobs.demo.training.people import People, joined, load_people, mirrored, morphs, save_people
from jobs.demo.training.places import load_places, save_places
from jobs.demo.training.prompts import build_tokenizer, tokenize_all, write_all
from jobs.demo.training.scenes import draw_clips, draw_photos
from jobs.demo.training.sface import export_sface
from jobs.demo.training.sheets import in_rows, save_sheet

TEMPLATE_TOKENIZER = Path("jobs/demo/model/Wan2.1-T2V-small-Diffusers/tokenizer")
SEGMENTER = Path(".cache/segmentation/selfie_segmentation.tflite")
RECOGNISER_FILE = "rec_sface512.onnx"
SHEET_SCENES = (
    *(Scene(motion, place, 0, 0) for motion, place in zip(range(6), (4, 1, 1, 2, 3, 7), strict=True)),
    *(Scene(0, place, camera, 0) for place, camera in ((0, 1), (6, 2), (3, 3), (7, 4))),
    *(Scene(0, place, 0, light) for place, light in ((1, 1), (0, 2), (3, 0), (3, 3), (5, 3), (2, 3))),
)

log = logging.getLogger(__name__)


def prepare(
    portraits: Path,
    faces: Path,
    out: Path,
    *,
    segmenter: Path = SEGMENTER,
    template_tokenizer: Path = TEMPLATE_TOKENIZER,
    prompts_per_scene: int = 12,
    variants_per_place: int = 24,
    seed: int = 0,
) -> None:
    """Writes all that training needs into `out`: people.npz, places.npz, prompts.npz, tokenizer/, sface.npz and sheets/.

    Args:
        portraits: Folder of portraits, with `held_out.txt`.
        faces: Folder of the free face pack.
        out: Created if missing.
        segmenter: The network that finds the person; fetched if it is not there.
        template_tokenizer: Folder of a tokenizer whose settings are kept.
        prompts_per_scene: Every third is Chinese.
        variants_per_place: Backgrounds of each place.
        seed: Of places and prompts.

    Raises:
        BadPortraits: If no portrait is usable.
    """
    out.mkdir(parents=True, exist_ok=True)
    _unless_there(out / "sface.npz", lambda file: export_sface(faces / RECOGNISER_FILE, file))
    _unless_there(
        out / "prompts.npz", lambda file: _write_prompts(file, out, template_tokenizer, prompts_per_scene, seed)
    )
    _unless_there(out / "places.npz", lambda file: save_places(file, variants_per_place, seed))
    _unless_there(out / "people.npz", lambda file: _write_people(file, portraits, faces, segmenter, out / "sheets"))
    if not (out / "sheets/photos.png").is_file():
        _write_sheets(load_people(out / "people.npz"), load_places(out / "places.npz"), out / "sheets", seed)


def _unless_there(file: Path, write: Callable[[Path], None]) -> None:
    """Writes the file under another name first, so that one that is there is complete."""
    if file.exists():
        log.info("%s is there", file)
        return
    partial = file.with_name(f"partial-{file.name}")
    write(partial)
    os.replace(partial, file)
    log.info("%s: %.1f MB", file, file.stat().st_size / 1e6)


def _write_prompts(file: Path, out: Path, template: Path, per_scene: int, seed: int) -> None:
    rng = random.Random(seed)
    seen = write_all(per_scene, rng)
    unseen = write_all(4, rng, unseen=True)
    shutil.rmtree(out / "tokenizer", ignore_errors=True)
    num_pieces = build_tokenizer(template, out / "tokenizer", [text for texts in seen for text in texts])
    table = tokenize_all(out, seen, unseen, num_pieces)
    scenes = np.array(ALL_SCENES, np.uint8)
    np.savez_compressed(file, scenes=scenes, unseen_texts=json.dumps(unseen, ensure_ascii=False), **table._asdict())


def _write_people(file: Path, portraits: Path, faces: Path, segmenter: Path, sheets: Path) -> None:
    from jobs.demo.training.mattes import Segmenter, fetch_segmenter
    from jobs.demo.training.portraits import over_colour, read_portraits
    from lynx_model.faces.reader import FaceReader

    reader, network = FaceReader.load(str(faces), "pack"), Segmenter.load(fetch_segmenter(segmenter))
    gallery = read_portraits(portraits, reader, network)
    for name, reason in gallery.dropped.items():
        log.warning("portrait %s is left out: %s", name, reason)
    pictures = [picture[::2, ::2] for picture in over_colour(gallery.portraits, (0, 200, 0))]
    save_sheet(sheets / "mattes.png", in_rows(pictures, 16))
    save_people(file, gallery.portraits)


def _write_sheets(people: People, places: Tensor, folder: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    some = people.select(torch.randperm(len(people), generator=generator)[: len(SHEET_SCENES)])
    save_sheet(folder / "places.png", [_pictures(variants[:8, :, ::2, ::2] / 127.5 - 1) for variants in places], PLACES)
    rows, labels = [], []
    for index, scene in enumerate(SHEET_SCENES):
        who = some.select(torch.tensor([index % len(some)]))
        background = places[scene.place, index % places.shape[1]][None]
        clips, _ = draw_clips(who.canvases, who.landmarks, background, torch.tensor([scene]), generator=generator)
        rows.append(_pictures(clips[0, :, ::4].transpose(0, 1)))
        labels.append(scene.title)
    halves = [[*left, *right] for left, right in zip(rows[::2], rows[1::2], strict=True)]
    save_sheet(folder / "clips.png", halves, [" | ".join(pair) for pair in zip(labels[::2], labels[1::2], strict=True)])
    train, _ = people.split()
    groups = [some.select(torch.arange(min(6, len(some)))), mirrored(some.select(torch.arange(min(2, len(some)))))]
    mixed = joined([*groups, morphs(train, 12, generator)] if len(train) > 1 else groups)
    numbers = torch.randint(places.shape[0] * places.shape[1], (len(mixed),), generator=generator)
    references, identities = draw_photos(
        mixed.canvases, mixed.landmarks, places.flatten(0, 1)[numbers], generator=generator
    )
    small = torch.nn.functional.interpolate(references, (112, 112), mode="area")
    save_sheet(
        folder / "photos.png",
        [_pictures(part) for pair in zip(small.split(10), identities.split(10), strict=True) for part in pair],
    )


def _pictures(pictures_BCHW: Tensor) -> list[NDArray[np.uint8]]:
    """Pictures from -1 to 1 as uint8 (H, W, 3) each."""
    return list(((pictures_BCHW + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
