"""The run file: what to render, with which model, where to and on which machines."""

from lynx_batch.config.cluster import ClusterConfig, NodeTypeConfig
from lynx_batch.config.defaults import DefaultsConfig
from lynx_batch.config.delivery import AigcConfig, C2paConfig, LabelConfig, ProvenanceConfig, VideoConfig
from lynx_batch.config.engine import CalibrationConfig, EngineConfig
from lynx_batch.config.inputs import InputsConfig
from lynx_batch.config.limits import LimitsConfig, NotifyConfig, RetryConfig
from lynx_batch.config.load import load_run_config, override, parse_override, parse_run_config
from lynx_batch.config.model import AdapterConfig, FacesConfig, LoraConfig, ModelConfig
from lynx_batch.config.paths import named_paths
from lynx_batch.config.quality import KeepRejected, QualityConfig
from lynx_batch.config.run import ApprovalConfig, ReportConfig, RunConfig

__all__ = [
    "AdapterConfig",
    "AigcConfig",
    "ApprovalConfig",
    "C2paConfig",
    "CalibrationConfig",
    "ClusterConfig",
    "DefaultsConfig",
    "EngineConfig",
    "FacesConfig",
    "InputsConfig",
    "KeepRejected",
    "LabelConfig",
    "LimitsConfig",
    "LoraConfig",
    "ModelConfig",
    "NodeTypeConfig",
    "NotifyConfig",
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
