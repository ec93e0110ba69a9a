"""Opens the networks that scorers measure with, and refuses what is not one before it is needed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.onnx_sessions import session_options

ONNX_ERRORS = (
    *(ort_errors.InvalidProtobuf, ort_errors.InvalidGraph, ort_errors.Fail, ort_errors.NotImplemented),
    *(ort_errors.InvalidArgument, ort_errors.RuntimeException, ort_errors.NoSuchFile, ort_errors.EPFail),
    UnicodeDecodeError,  # the name of a node is no text
)
"""Errors that onnxruntime raised for damaged networks in tests, and their kin."""

TRIAL_PICTURE = np.zeros((64, 64, 3), dtype=np.uint8)
"""A black picture, on which a model is tried when it is loaded."""

Shape = Sequence[int | None]
"""None is any number."""


def check_file(field: str, file: Path) -> Path:
    """The file. Raises MissingFile if it is not there; the message names `field`."""
    if not file.is_file():
        raise MissingFile(f"{field}={str(file)!r}: must be a file on this machine")
    return file


def open_onnx(field: str, file: Path, *, takes: Shape, gives: Shape, device: str = "cpu") -> Any:
    """An onnxruntime session of a network with one float32 input and one output; it runs once, on zeros.

    Args:
        field: Where the user stated the file; messages begin with it.
        file: An ONNX network.
        takes: Shape of its input.
        gives: Shape of its output.
        device: "cpu" or "cuda:N"; a GPU is used if the installed onnxruntime can.

    Raises:
        MissingFile: If there is no such file.
        WeightsMismatch: If it is no ONNX network, or has other shapes.
    """
    about = f"{field}={str(check_file(field, file))!r}"
    try:
        session = onnxruntime.InferenceSession(file, session_options(), providers=_providers(device))
    except ONNX_ERRORS as error:
        raise WeightsMismatch(f"{about}: must be an ONNX network ({error})") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise WeightsMismatch(f"{about}: must have 1 input and 1 output, has {len(inputs)} and {len(outputs)}")
    if not _takes(session, takes):
        raise WeightsMismatch(f"{about}: must take float32 {_show(takes)}, takes {inputs[0].type} {inputs[0].shape}")
    one, gives_one = ([size or 1 for size in shape] for shape in (takes, gives))
    try:
        found = list(run_onnx(session, np.zeros(one, np.float32)).shape)
    except ONNX_ERRORS as error:
        raise WeightsMismatch(f"{about}: must run on float32 {_show(takes)} ({error})") from error
    if found != gives_one:
        raise WeightsMismatch(f"{about}: must give {_show(gives)}, gives {_show(found)}")
    return session


def run_onnx(session: Any, values: NDArray[np.float32]) -> NDArray[np.float32]:
    (found,) = session.run(None, {session.get_inputs()[0].name: values})
    return np.asarray(found, dtype=np.float32)


def open_folder(
    field: str, folder: Path, model_class: Any, processor_class: Any, *, device: str = "cpu"
) -> tuple[Any, Any]:
    """A model and its processor from a folder in transformers' layout, with weights in safetensors. Fetches nothing.

    Args:
        field: Where the user stated the folder; messages begin with it.
        folder: Holds `config.json`, `*.safetensors` and the processor's files.
        model_class: An auto class of transformers.
        processor_class: Another, for the model's inputs.
        device: Where the model runs.

    Returns:
        (model, processor).

    Raises:
        MissingFile: If there is no such folder, or it lacks `config.json` or `*.safetensors`.
        WeightsMismatch: If it holds another kind of model, or a tensor is missing or misshapen.
    """
    about = f"{field}={str(folder)!r}"
    for pattern in ("config.json", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise MissingFile(f"{about}: must be a folder on this machine that holds {pattern}")
    try:
        model, loaded = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        processor = processor_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises this very class
        raise WeightsMismatch(f"{about}: must hold a complete model that transformers reads ({error})") from error
    for kind in ("missing_keys", "mismatched_keys"):
        if loaded[kind]:
            raise WeightsMismatch(
                f"{about}: must hold every weight of its config, in its shape: {kind} {sorted(map(str, loaded[kind]))[:3]}"
            )
    return model.to(device).eval(), processor


def try_out(field: str, folder: Path, measure: Callable[[], Sequence[float]]) -> None:
    """Measures once. Raises WeightsMismatch if that fails, or gives something else than numbers."""
    try:
        found = measure()
    except Exception as error:  # whatever a config made the model or the processor do
        raise WeightsMismatch(f"{field}={str(folder)!r}: must run on a picture ({error})") from error
    if not np.isfinite(found).all():
        raise WeightsMismatch(f"{field}={str(folder)!r}: must give numbers, gives {list(found)}")


def folder_files(folder: Path) -> list[Path]:
    """The files of a model's folder that decide what it computes."""
    return sorted(file for pattern in ("*.json", "*.txt", "*.model", "*.safetensors") for file in folder.glob(pattern))


def _providers(device: str) -> list[Any]:
    name, _, index = device.partition(":")
    if name == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _takes(session: Any, wanted: Shape) -> bool:
    """Whether the input is float32 of this shape. A size that the network leaves open fits; a fixed one must be wanted."""
    (value,) = session.get_inputs()
    sizes = value.shape
    is_open = [not isinstance(size, int) for size in sizes]
    return (
        value.type == "tensor(float)"
        and len(sizes) == len(wanted)
        and all(is_any or size == want for is_any, size, want in zip(is_open, sizes, wanted, strict=True))
    )


def _show(shape: Shape) -> str:
    return f"({', '.join('N' if size is None else str(size) for size in shape)})"
