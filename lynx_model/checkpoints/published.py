"""The published weights: where they come from, and where they are on this machine; free of torch.

Revisions and hashes come from public code and documentation that pin the same ones. No such pin is known for the adapters, so
the first pull settles their revision.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

PUBLISHED_IDENTITY_ENCODER = "arcface-ir-se50"
"""The identity encoder that the published adapters were trained on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoSource:
    """Part of a Hugging Face repository.

    `folder` is the place of that part below the models folder; `patterns` selects its files in the repository. If
    `is_whole_repo`, `folder` corresponds to the whole repository, else to the folder of that name in it. `revision` is a commit, or
    None if none is pinned.
    """

    repo_id: str
    folder: str
    patterns: tuple[str, ...]
    is_whole_repo: bool
    revision: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """One file on a web server; `path` is its place below the models folder."""

    url: str
    path: str
    sha256: str


BASE = RepoSource(
    repo_id="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    folder="Wan2.1-T2V-14B-Diffusers",
    patterns=("model_index.json", "transformer/*", "vae/*", "text_encoder/*", "tokenizer/*", "scheduler/*"),
    is_whole_repo=True,
    revision="38ec498cb3208fb688890f8cc7e94ede2cbd7f68",
)


def _adapters(folder: str) -> RepoSource:
    return RepoSource(
        repo_id="ByteDance/lynx", folder=folder, patterns=(f"{folder}/*",), is_whole_repo=False, revision=None
    )


ARCFACE = FileSource(
    url="https://github.com/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth",
    path="arcface/recognition_arcface_ir_se50.pth",
    sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
)

PUBLISHED: dict[str, RepoSource | FileSource] = {
    "base": BASE,
    "full": _adapters("lynx_full"),
    "lite": _adapters("lynx_lite"),
    "arcface": ARCFACE,
}
"""All weights that can be fetched, by their names for `lynx-batch models pull`."""


def models_root() -> Path:
    """The models folder: `$LYNX_BATCH_MODELS`, or by default one in the user's cache folder."""
    chosen = os.environ.get("LYNX_BATCH_MODELS")
    return Path(os.path.expanduser(chosen)) if chosen else platformdirs.user_cache_path("lynx-batch") / "models"
