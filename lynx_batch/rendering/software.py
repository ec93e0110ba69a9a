"""The versions of the software that renders, as recorded in commits and run records."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("lynx-batch", "torch", "diffusers", "transformers", "ray", "insightface", "onnxruntime", "av", "xfuser")


def software_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can affect a clip."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
