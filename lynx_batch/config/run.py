"""The run file as a whole. Unknown keys are errors."""

from lynx_batch.config.cluster import ClusterConfig
from lynx_batch.config.defaults import DefaultsConfig
from lynx_batch.config.delivery import ProvenanceConfig, VideoConfig
from lynx_batch.config.engine import EngineConfig
from lynx_batch.config.inputs import InputsConfig
from lynx_batch.config.limits import LimitsConfig, NotifyConfig, RetryConfig
from lynx_batch.config.model import FacesConfig, ModelConfig
from lynx_batch.config.preset import PresetName
from lynx_batch.config.quality import QualityConfig
from lynx_batch.config.section import Section
from lynx_batch.yaml_text import write_yaml


class ReportConfig(Section):
    """The report that ends a run. `photos: false` leaves the people's photos out of it; nothing else that a run writes shows them."""

    photos: bool = True


class ApprovalConfig(Section):
    """Whether somebody must have approved what the run asks for.

    With `required`, a run is refused before it starts unless approvals cover its settings and the template and parameters of each row.
    `sample` is the output location of its samples, where `approve` keeps the approvals; null is the run's `output` with `-sample` added.
    Approvals at the `output` itself count, too.
    """

    required: bool = False
    sample: str | None = None


class RunConfig(Section):
    preset: PresetName | None = None
    manifest: str
    output: str
    model: ModelConfig
    faces: FacesConfig = FacesConfig()
    inputs: InputsConfig = InputsConfig()
    engine: EngineConfig = EngineConfig()
    defaults: DefaultsConfig = DefaultsConfig()
    video: VideoConfig = VideoConfig()
    quality: QualityConfig | None = None
    provenance: ProvenanceConfig = ProvenanceConfig()
    cluster: ClusterConfig = ClusterConfig()
    retry: RetryConfig = RetryConfig()
    limits: LimitsConfig | None = None
    notify: tuple[NotifyConfig, ...] = ()
    report: ReportConfig = ReportConfig()
    approval: ApprovalConfig = ApprovalConfig()

    def to_yaml(self) -> bytes:
        """The run file with a value for every key, as it is kept in the run's record."""
        return write_yaml(self.model_dump(mode="json")).encode()
