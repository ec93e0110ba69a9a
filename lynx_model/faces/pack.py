"""Finds a face pack on disk: a folder of ONNX networks that insightface loads. Never downloads one."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lynx_model.checkpoints.published import models_root
from lynx_model.checkpoints.reading import reading
from lynx_model.errors import MissingFile

PACK_NOTE = "lynx-pack.json"
"""Describes a pack. Its name is not `manifest.json`, because insightface reads a file of that name itself."""

FREE_PACK = "free"
"""The name of the default pack, which may be used commercially."""

INSIGHTFACE_LICENCE = "non-commercial research only"


@dataclass(frozen=True, slots=True, kw_only=True)
class FacePack:
    """`identity_encoder` names the pack's recogniser; `licence` says what its weights may be used for."""

    folder: Path
    name: str
    identity_encoder: str
    licence: str


def find_pack(name_or_folder: str) -> FacePack:
    """The pack in a folder (anything with a slash), or the pack of that name in the models folder or insightface's.

    A folder without `lynx-pack.json` is treated as one of InsightFace's own packs.

    Raises:
        MissingFile: If there is no such pack, or it has no network; the message says how to get one.
    """
    folders = _candidate_folders(name_or_folder)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        looked = " or ".join(map(str, folders))
        raise MissingFile(f"face pack {name_or_folder!r}: must be the folder {looked}; {_how_to_get(name_or_folder)}")
    if not any(folder.glob("*.onnx")):
        raise MissingFile(f"face pack {folder}: must hold *.onnx files itself, not in a folder below")
    return _describe(folder)


def _candidate_folders(name_or_folder: str) -> list[Path]:
    if "/" in name_or_folder:
        return [Path(os.path.expanduser(name_or_folder)).resolve()]
    return [models_root() / "faces" / name_or_folder, Path.home() / ".insightface" / "models" / name_or_folder]


def _how_to_get(name: str) -> str:
    if name == FREE_PACK:
        return "build it with `lynx-batch models build-free-faces`"
    return (
        f"unpack InsightFace's own packs there (their weights are for {INSIGHTFACE_LICENCE}), "
        f"or choose the pack {FREE_PACK!r}"
    )


def _describe(folder: Path) -> FacePack:
    file = folder / PACK_NOTE
    if not file.is_file():
        encoder = f"insightface-{folder.name}"
        return FacePack(folder=folder, name=folder.name, identity_encoder=encoder, licence=INSIGHTFACE_LICENCE)
    try:
        with reading(file):
            return FacePack(folder=folder, **json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise MissingFile(f"face pack {folder}: {PACK_NOTE} must give name, identity_encoder and licence") from error
