"""What software renders, as commits and run records name it."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("lynx-batch", "torch", "diffusers", "transformers", "ray", "insightface", "onnxruntime", "av", "xfuser")


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that touch a clip, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
