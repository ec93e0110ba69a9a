"""Identifies a model folder and checks that its files fit together; reads headers only, free of torch."""

from pathlib import Path

from lynx_model.checkpoints.adapter_spec import ID_FILE, RESAMPLER_FILE, describe_adapters
from lynx_model.checkpoints.base import COMPONENTS, check_base
from lynx_model.checkpoints.checkpoint import read_tensors
from lynx_model.checkpoints.published import ARCFACE
from lynx_model.errors import MissingFile
from lynx_model.faces.identity import check_arcface
from lynx_model.faces.pack import find_pack
from lynx_model.spec import REF_FILE

INDEX_FILE = "model_index.json"


def describe_folder(folder: Path) -> str:
    """Checks a base, adapter, face pack or ArcFace folder and describes it in one line.

    Raises:
        MissingFile: If a file is not there, or the folder is none of these.
        WeightsMismatch: If a file is damaged, or a tensor is missing, surplus or misshapen. Of ArcFace's tensors, only some names are
            checked.
    """
    if (folder / INDEX_FILE).is_file():
        return _describe_base(folder)
    if any((folder / name).is_file() for name in (RESAMPLER_FILE, ID_FILE, REF_FILE)):
        return _describe_adapters(folder)
    if any(folder.glob("*.onnx")):
        pack = find_pack(str(folder.resolve()))
        return f"face pack {pack.name}, embeddings of {pack.identity_encoder}, licence: {pack.licence}"
    if (arcface := folder / Path(ARCFACE.path).name).is_file():
        check_arcface(arcface)
        return "ArcFace IR-SE50, the identity encoder of the published adapters"
    raise MissingFile(f"{folder}: must hold {INDEX_FILE}, {RESAMPLER_FILE}, a face pack's *.onnx or the ArcFace file")


def _describe_base(folder: Path) -> str:
    spec = check_base(folder)
    num_tensors = sum(len(read_tensors(folder / name)) for name in COMPONENTS)
    return f"base model, {spec.num_blocks} blocks of {spec.channels} channels, {num_tensors} tensors"


def _describe_adapters(folder: Path) -> str:
    spec = describe_adapters(folder, folder if (folder / REF_FILE).is_file() else None)
    variant = "full" if spec.has_id_bias else "lite"
    registers = f" with {spec.num_registers} registers" if spec.num_registers else ""
    ref = f", Ref-adapter of {spec.num_ref_layers} layers" if spec.has_ref else ", no Ref-adapter"
    return (
        f"Lynx-{variant}: ID-adapter of {spec.num_id_layers} layers{registers}{ref}; "
        f"{spec.channels} channels, {spec.resampler['num_queries']} identity tokens of {spec.token_size}; "
        f"takes embeddings of {spec.identity_encoder}"
    )
