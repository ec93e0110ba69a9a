"""What the presets are predicted to take at the true size: a clip of jobs/campaign.yaml on one GPU.

The steps that the step cache skips come from the calibration of the demo's model (`tests/data/demo-calibration.json`: four clips of 50
steps, both people with the demo's first two prompts, float32 on a CPU, 2026-11-27), because the published weights were not calibrated yet.
"""

from lynx_batch.config import CalibrationConfig, RunConfig, load_run_config
from lynx_batch.config.preset import PresetName
from lynx_batch.planning.cost import PUBLISHED_TRAITS, CostModel, Engine, GpuType, work_of
from lynx_model.parameters import PARAMETERS
from lynx_model.spec import RenderParams
from lynx_model.step_plan import num_full_forwards
from tests.models import ROOT

CALIBRATION = ROOT / "tests" / "data" / "demo-calibration.json"
LORA = "/models/loras/steps.safetensors"


def campaign(name: PresetName) -> RunConfig:
    """The campaign with a preset, a LoRA and the calibration of the demo's model."""
    config = load_run_config(ROOT / "jobs" / "campaign.yaml", {"preset": name, "model.loras": [LORA]})
    cache = config.engine.step_cache
    if cache is None:
        return config
    known = CalibrationConfig.model_validate_json(CALIBRATION.read_bytes())
    engine = config.engine.model_copy(update={"step_cache": cache.model_copy(update={"calibration": known})})
    return config.model_copy(update={"engine": engine})


def predicted_s(name: PresetName, gpu: GpuType) -> float:
    """Seconds for which a clip keeps one GPU busy."""
    config = campaign(name)
    engine = Engine(options=config.engine.options)
    return CostModel(engine=engine).seconds(work_of(_params(config), engine), 1, gpu)


def full_forwards(name: PresetName) -> int:
    """Forwards of a clip that run the blocks."""
    config = campaign(name)
    return num_full_forwards(_params(config), PUBLISHED_TRAITS, config.engine.options.step_cache)


def _params(config: RunConfig) -> RenderParams:
    known = {key: value for key, value in dict(config.defaults).items() if key in PARAMETERS and key != "seed"}
    return RenderParams(prompt="p", **known)
