"""Step `judge`: renders held-out people with the project's own pipeline, and measures who and what the clips show.

Every clip is judged from its MP4, as a user gets it. A rendered clip is kept, so that the step can be interrupted.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from PIL import Image, ImageFont, ImageOps

from jobs.demo.training.axes import AXES, Scene
from jobs.demo.training.config import Recipe
from jobs.demo.training.model_files import BASE
from jobs.demo.training.people import load_people
from jobs.demo.training.prompts import write_prompt, write_unseen_prompt
from jobs.demo.training.scene_judge import SceneJudge, load_scene_judge
from jobs.demo.training.sheets import save_sheet
from lynx_batch.delivery.label import builtin_font
from lynx_batch.delivery.video import decode_mp4, encode_mp4
from lynx_model import LynxPipeline, RenderParams, Subject
from lynx_model.faces.likeness import choose_frames, embed_frames
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader

SUBJECTS = Path("jobs/demo/subjects")
GUIDANCE, IMAGE_GUIDANCE = 2.0, 2.0
FPS, CRF = 8, 18
SHEET_ROWS, FONT_PX = 14, 11
UNSEEN = "held-out portraits"


@dataclass(frozen=True, slots=True)
class Variant:
    """A model and the strengths of its adapters. Ablations render one clip of each person."""

    name: str
    adapters: str
    ip_scale: float = 1.0
    ref_scale: float = 1.0
    is_ablation: bool = False


VARIANTS = (
    Variant("full", "lynx_full"),
    Variant("lite", "lynx_lite"),
    Variant("full, Ref off", "lynx_full", ref_scale=0.0, is_ablation=True),
    Variant("full, ID off", "lynx_full", ip_scale=0.0, is_ablation=True),
    Variant("full, both off", "lynx_full", ip_scale=0.0, ref_scale=0.0, is_ablation=True),
)


@dataclass(frozen=True, slots=True)
class Planned:
    """A clip to render and judge."""

    variant: Variant
    person: str
    turn: int
    scene: Scene
    prompt: str
    is_chinese: bool

    @property
    def file_name(self) -> str:
        return f"{self.variant.name.replace(', ', '-').replace(' ', '-')}-{self.person}-{self.turn}.mp4"


@dataclass(frozen=True, slots=True)
class Judged:
    """What a clip shows: its face's mean cosine to each person of the gallery, and the scene as the judge sees it."""

    planned: Planned
    cosines: dict[str, float]
    faces_found: float
    scene: Scene

    @property
    def own(self) -> float:
        return self.cosines.get(self.planned.person, float("nan"))

    @property
    def others(self) -> float:
        return mean([c for person, c in self.cosines.items() if person != self.planned.person] or [float("nan")])

    @property
    def is_nearest(self) -> bool:
        return bool(self.cosines) and max(self.cosines, key=lambda person: self.cosines[person]) == self.planned.person


def plan_clips(people: Sequence[str], clips_per_person: int) -> list[Planned]:
    """Scenes that cover each axis evenly; every second prompt is not from the training's templates, every third is Chinese."""
    rng = random.Random(12)
    planned = []
    for variant in VARIANTS:
        for index, person in enumerate(people):
            for turn in range(1 if variant.is_ablation else clips_per_person):
                number = index * clips_per_person + turn
                scene = Scene(
                    *(
                        (number * step + number // size) % size
                        for size, step in zip(map(len, AXES), (1, 3, 2, 1), strict=True)
                    )
                )
                is_chinese = number % 3 == 2
                write = write_unseen_prompt if number % 2 else write_prompt
                prompt = write(scene, rng, chinese=is_chinese)
                planned.append(Planned(variant, person, turn, scene, prompt, is_chinese))
    return planned


def judge(recipe: Recipe, model: Path, portraits: Path, faces: Path, state: Path) -> None:
    """Writes `judge/`: an MP4 of each clip, `table.md`, `clips.json`, and a contact sheet of each variant."""
    stage, folder = recipe.judge, state / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    reader = FaceReader.load(str(faces), "pack")
    photos = _photos(state, portraits, stage.num_people)
    subjects = {name: reader.read(read_photo(file.read_bytes())) for name, file in photos.items()}
    planned = plan_clips(list(subjects), stage.clips_per_person)
    _render(recipe, planned, subjects, model, folder)
    scene_judge = load_scene_judge(state)
    judged = [_judge(clip, folder, subjects, reader, scene_judge) for clip in planned]
    (folder / "clips.json").write_text(json.dumps([_row(clip) for clip in judged], indent=1, ensure_ascii=False))
    table = likeness_table(judged, {path.stem for path in SUBJECTS.glob("*.jpg")}) + "\n\n" + scene_table(judged)
    (folder / "table.md").write_text(table + "\n")
    for variant in VARIANTS:
        _save_sheet([clip for clip in planned if clip.variant is variant], photos, folder, variant.name)
    print(table)


def _photos(state: Path, portraits: Path, num_people: int) -> dict[str, Path]:
    """The demo's own photos, which nothing was trained on, and the held-out portraits."""
    own = {file.stem: file for file in sorted(SUBJECTS.glob("*.jpg"))}
    _, held_out = load_people(state / "people.npz").split()
    judged = {name: next(portraits.glob(f"{name}.*")) for name in held_out.names}
    return dict(list((own | judged).items())[:num_people])


def _render(
    recipe: Recipe, planned: Iterable[Planned], subjects: dict[str, Subject], model: Path, folder: Path
) -> None:
    data = recipe.data
    pipes: dict[str, LynxPipeline] = {}
    for clip in planned:
        file = folder / clip.file_name
        if file.exists():
            continue
        adapters = clip.variant.adapters
        if adapters not in pipes:
            pipes[adapters] = LynxPipeline.load(str(model / BASE), str(model / adapters), device="cpu", dtype="float32")
        params = RenderParams(
            prompt=clip.prompt,
            width=data.frame_px,
            height=data.frame_px,
            num_frames=data.num_frames,
            num_inference_steps=recipe.judge.num_steps,
            guidance_scale=GUIDANCE,
            guidance_scale_image=IMAGE_GUIDANCE if adapters == "lynx_full" else None,
            ip_scale=clip.variant.ip_scale,
            ref_scale=clip.variant.ref_scale,
            seed=100 + clip.turn,
        )
        frames = pipes[adapters].decode(pipes[adapters].denoise(subjects[clip.person], params))
        file.write_bytes(encode_mp4(frames, fps=FPS, crf=CRF))


def _judge(
    clip: Planned, folder: Path, subjects: dict[str, Subject], reader: FaceReader, scene_judge: SceneJudge
) -> Judged:
    frames = decode_mp4((folder / clip.file_name).read_bytes())
    embeddings = embed_frames(reader, frames)
    found = [e for e in embeddings if e is not None]
    cosines = {
        name: float(np.mean([e @ subject.face_embedding for e in found])) for name, subject in subjects.items() if found
    }
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        scene = Scene(*(int(logits.argmax()) for logits in scene_judge(pixels)))
    return Judged(clip, cosines, len(found) / len(embeddings), scene)


def likeness_table(judged: Sequence[Judged], demo_people: set[str]) -> str:
    """A Markdown table: likeness of each variant, for unseen portraits and for the demo's own people."""
    lines = [
        "| variant | people | clips | own | others | own is nearest | face found |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        groups: dict[str, list[Judged]] = {name: [] for name in (UNSEEN, *sorted(demo_people))}
        for clip in judged:
            if clip.planned.variant is variant:
                person = clip.planned.person
                groups[person if person in demo_people else UNSEEN].append(clip)
        for name, clips in groups.items():
            if clips:
                lines.append(
                    f"| {variant.name} | {name} | {len(clips)} | {np.nanmean([c.own for c in clips]):.3f} "
                    f"| {np.nanmean([c.others for c in clips]):.3f} | {_percent(c.is_nearest for c in clips)} "
                    f"| {_percent(c.faces_found for c in clips)} |"
                )
    return "\n".join(lines)


def scene_table(judged: Sequence[Judged]) -> str:
    """A Markdown table: how often each axis of the scene is what the prompt says, for full and lite, English and Chinese."""
    lines = [f"| variant | prompts | clips | {' | '.join(Scene._fields)} |", "|---|---|---|" + "---|" * len(AXES)]
    for variant in (v for v in VARIANTS if not v.is_ablation):
        for language, is_chinese in (("English", False), ("Chinese", True)):
            clips = [c for c in judged if c.planned.variant is variant and c.planned.is_chinese == is_chinese]
            if clips:
                rights = [_percent(c.scene[axis] == c.planned.scene[axis] for c in clips) for axis in range(len(AXES))]
                lines.append(f"| {variant.name} | {language} | {len(clips)} | {' | '.join(rights)} |")
    return "\n".join(lines)


def _percent(shares: Iterable[float]) -> str:
    return f"{100 * mean(float(share) for share in shares):.0f} %"


def _row(clip: Judged) -> dict[str, object]:
    planned = clip.planned
    return {
        "file": planned.file_name,
        "prompt": planned.prompt,
        "scene": planned.scene,
        "seen_scene": clip.scene,
        "own": round(clip.own, 3),
        "others": round(clip.others, 3),
        "is_nearest": clip.is_nearest,
        "faces_found": clip.faces_found,
    }


def _save_sheet(clips: Sequence[Planned], photos: dict[str, Path], folder: Path, name: str) -> None:
    rows, labels, font = [], [], ImageFont.truetype(BytesIO(builtin_font()), FONT_PX)
    for clip in clips[:: max(1, len(clips) // SHEET_ROWS)]:
        frames = decode_mp4((folder / clip.file_name).read_bytes())
        photo = Image.fromarray(read_photo(photos[clip.person].read_bytes()))
        size = frames.shape[2], frames.shape[1]
        rows.append([np.asarray(ImageOps.fit(photo, size)), *frames[choose_frames(len(frames))]])
        labels.append(clip.prompt)
    save_sheet(folder / f"{name.replace(', ', '-').replace(' ', '-')}.png", rows, labels, font)
