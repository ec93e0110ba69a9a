"""Loads checkpoints into modules, strictly and tensor by tensor.

Every dimension comes from configs and tensor headers. A module is built without memory and compared with the files' headers before
anything is read. Then each tensor is read, cast and put in place.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from lynx_model.checkpoints.adapter_spec import ID_FILE, RESAMPLER_FILE, AdapterSpec, describe_adapters
from lynx_model.checkpoints.checkpoint import read_checkpoint
from lynx_model.checkpoints.json_file import read_json
from lynx_model.checkpoints.loras import Lora, LowRank, describe_loras
from lynx_model.checkpoints.safetensors_header import compare_tensors, read_header
from lynx_model.errors import WeightsMismatch
from lynx_model.network.resampler import Resampler
from lynx_model.network.text import TextEncoder
from lynx_model.network.transformer import LynxTransformer, Part, assemble_transformer
from lynx_model.sampler import make_schedule
from lynx_model.spec import ONE_GPU, REF_FILE, EngineOptions, ModelSource, ParallelPlan, RenderParams
from lynx_model.tokenizer import Tokenizer

T = TypeVar("T")

TIED_NAMES = {"shared.weight": "encoder.embed_tokens.weight"}
"""UMT5's one token embedding has two names; a file may hold either or both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """All modules of Lynx, in evaluation mode and ready for forwards."""

    transformer: LynxTransformer
    resampler: Resampler
    vae: AutoencoderKLWan
    text_encoder: TextEncoder
    scheduler_config: dict[str, Any]
    adapters: AdapterSpec


def load_model(
    source: ModelSource, *, device: torch.device, engine: EngineOptions, plan: ParallelPlan = ONE_GPU
) -> LoadedModel:
    """Loads the model at `source`. Weights that `engine` offloads, and a text encoder that is not resident, stay in host memory.

    Raises:
        MissingFile: If a file is not there.
        WeightsMismatch: If a tensor is missing, surplus or misshapen; names file, tensor, expected and found.
        InvalidParams: If the plan does not fit the model or the ranks, or the attention kernel does not work on `device`.
    """
    dtype = getattr(torch, engine.dtype)
    base, on_device, in_host = Path(source.base), _Destination(device, dtype), _Destination(torch.device("cpu"), dtype)
    offloadable = in_host if engine.offload == "blocks" else on_device
    scheduler_file = base / "scheduler" / "scheduler_config.json"
    _build(scheduler_file, lambda config: make_schedule(config, RenderParams(prompt="any"), in_host.device))
    adapters, loras = describe_adapters(source.id_adapter, source.ref_adapter), describe_loras(source)
    with init_empty_weights(include_buffers=False):
        transformer = _build(base / "transformer" / "config.json", LynxTransformer.from_config)
        vae = _build(base / "vae" / "config.json", AutoencoderKLWan.from_config)
        encoder = _build(base / "text_encoder" / "config.json", _build_text_encoder)
        resampler = Resampler(**adapters.resampler)
    files = _transformer_files(source)
    assemble_transformer(
        transformer,
        adapters,
        lambda part, module: offloadable.fill(module, files[part], loras if part == "base" else ()),
        device=device,
        engine=engine,
        plan=plan,
    )
    on_device.fill(vae, base / "vae")
    (on_device if engine.text_encoder == "resident" else in_host).fill(encoder, base / "text_encoder")
    offloadable.fill(resampler, Path(source.id_adapter, RESAMPLER_FILE))
    return LoadedModel(
        transformer=transformer,
        resampler=resampler,
        vae=vae,
        text_encoder=TextEncoder(Tokenizer.load(base), encoder, device=device, placement=engine.text_encoder),
        scheduler_config=read_json(scheduler_file),
        adapters=adapters,
    )


def _transformer_files(source: ModelSource) -> dict[Part, Path]:
    """The checkpoint of each part of the transformer: a file or a folder."""
    files: dict[Part, Path] = {
        "base": Path(source.base, "transformer"),
        "id_adapter": Path(source.id_adapter, ID_FILE),
    }
    if source.ref_adapter is not None:
        files["ref_adapter"] = Path(source.ref_adapter, REF_FILE)
    return files


def _build(file: Path, build: Callable[[dict[str, Any]], T]) -> T:
    """`build` applied to the configuration in `file`.

    Raises:
        MissingFile: If there is no such file.
        WeightsMismatch: If `build` fails. The configuration is at fault, not the machine, so a retry cannot help.
    """
    config = read_json(file)
    try:
        return build(config)
    except Exception as error:  # the libraries document nothing narrower
        raise WeightsMismatch(f"{file}: no module can be built from it: {type(error).__name__}: {error}") from error


def _build_text_encoder(config: dict[str, Any]) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config.from_dict(config))


@contextmanager
def _opened(file: Path, device: torch.device) -> Iterator[Any]:
    """Opens a safetensors file. Raises WeightsMismatch if the library refuses it although we accepted its header."""
    try:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            yield tensors
    except SafetensorError as error:
        raise WeightsMismatch(f"{file}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Destination:
    """Loads checkpoints into modules on one device, in one dtype except for what diffusers keeps in float32."""

    device: torch.device
    dtype: torch.dtype

    def fill(self, module: nn.Module, checkpoint: Path, loras: Sequence[Lora] = ()) -> None:
        """Loads every parameter of `module` from `checkpoint`, a file or a folder, and adds `loras`."""
        files = [checkpoint] if checkpoint.suffix else list(read_checkpoint(checkpoint))
        tied = _tied_names(module, files)
        check_tensors(module, files, tied)
        kept = getattr(module, "_keep_in_fp32_modules", None) or ()
        for file in files:
            with _opened(file, self.device) as tensors:
                for name in tensors.keys():  # noqa: SIM118  a handle, not a mapping
                    dtype = torch.float32 if set(name.split(".")) & set(kept) else self.dtype
                    tensor = self._fuse(tensors.get_tensor(name), name, loras)
                    parameter = nn.Parameter(tensor.to(dtype), requires_grad=False)
                    for alias in {name, tied.get(name, name)}:
                        _put(module, alias, parameter)
        module.to(self.device).eval()

    def _fuse(self, weight: Tensor, name: str, loras: Sequence[Lora]) -> Tensor:
        """`weight` plus the change that each LoRA makes to it, added in float32."""
        for lora in loras:
            if name in lora.changes:
                with _opened(lora.file, self.device) as tensors:
                    change = _read_change(tensors.get_tensor, lora.changes[name])
                if not change.isfinite().all():
                    raise WeightsMismatch(f"{lora.file}: its change to {name} must be finite numbers")
                weight = weight.float() + lora.scale * change.reshape(weight.shape)
        return weight


def _read_change(read: Callable[[str], Tensor], change: LowRank | str) -> Tensor:
    """The unscaled change that a LoRA makes to a tensor, in float32. `read` gives a tensor of the LoRA's file by name."""
    if isinstance(change, str):
        return read(change).float()
    alpha = read(change.alpha).item() if isinstance(change.alpha, str) else change.alpha
    down, up = (read(name).float().flatten(1) for name in (change.down, change.up))
    return alpha / change.rank * up @ down


def check_tensors(module: nn.Module, files: list[Path], tied: dict[str, str]) -> None:
    """Raises WeightsMismatch unless `files` together hold exactly the parameters of `module`, with the same shapes."""
    missing = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for file in files:
        found = read_header(file)
        compare_tensors(file, {name: missing[name] for name in found if name in missing}, found)
        for name in found:
            missing.pop(name)
            missing.pop(tied.get(name, name), None)
    compare_tensors(files[0], missing, {})


def _tied_names(module: nn.Module, files: list[Path]) -> dict[str, str]:
    """For tensors that have two names, of which the files hold only one: the name found -> the other name."""
    if not isinstance(module, UMT5EncoderModel):
        return {}
    found = {name for file in files for name in read_header(file)}
    pairs = [*TIED_NAMES.items(), *((b, a) for a, b in TIED_NAMES.items())]
    return {name: other for name, other in pairs if name in found and other not in found}


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    setattr(owner, leaf, parameter)
