"""The run file: what to render, with which model, where to and on which machines."""

from lynx_batch.config.load import load_run_config, override, parse_override, parse_run_config
from lynx_batch.config.paths import named_paths
from lynx_batch.config.sections import (
    AdapterConfig,
    AigcConfig,
    C2paConfig,
    ClusterConfig,
    DefaultsConfig,
    EngineConfig,
    FacesConfig,
    InputsConfig,
    LabelConfig,
    LoraConfig,
    ModelConfig,
    ProvenanceConfig,
    QualityConfig,
    ReportConfig,
    RetryConfig,
    RunConfig,
    VideoConfig,
)

__all__ = [
    "AdapterConfig",
    "AigcConfig",
    "C2paConfig",
    "ClusterConfig",
    "DefaultsConfig",
    "EngineConfig",
    "FacesConfig",
    "InputsConfig",
    "LabelConfig",
    "LoraConfig",
    "ModelConfig",
    "ProvenanceConfig",
    "QualityConfig",
    "ReportConfig",
    "RetryConfig",
    "RunConfig",
    "VideoConfig",
    "load_run_config",
    "named_paths",
    "override",
    "parse_override",
    "parse_run_config",
]
