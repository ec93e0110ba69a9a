"""The run file: what to render, with which model, where to and on which machines."""

from lynx_batch.config.load import load_run_config, override, parse_override, parse_run_config
from lynx_batch.config.paths import named_paths
from lynx_batch.config.sections import (
    AdapterConfig,
    ClusterConfig,
    DefaultsConfig,
    EngineConfig,
    FacesConfig,
    InputsConfig,
    LoraConfig,
    ModelConfig,
    ProvenanceConfig,
    QualityConfig,
    RetryConfig,
    RunConfig,
    VideoConfig,
)

__all__ = [
    "AdapterConfig",
    "ClusterConfig",
    "DefaultsConfig",
    "EngineConfig",
    "FacesConfig",
    "InputsConfig",
    "LoraConfig",
    "ModelConfig",
    "ProvenanceConfig",
    "QualityConfig",
    "RetryConfig",
    "RunConfig",
    "VideoConfig",
    "load_run_config",
    "named_paths",
    "override",
    "parse_override",
    "parse_run_config",
]
