"""The command line answers at once: nothing heavy is imported before a command needs it."""

import json
import subprocess
import sys

import pytest

import lynx_batch
import lynx_model

HEAVY = {
    *("torch", "ray", "diffusers", "transformers", "xfuser", "insightface", "cv2", "onnx", "onnxruntime", "av"),
    *("huggingface_hub", "scipy", "skimage", "pandas"),
}


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_imports_nothing_heavy() -> None:
    program = (
        "from lynx_batch.cli import app\n"
        "for command in ([], ['manifest'], ['manifest', 'check'], ['models'], ['quality', 'calibrate'], ['render'], ['submit'], ['report'],"
        " ['cancel'], ['doctor']):\n"
        "    try: app([*command, '--help'])\n"
        "    except SystemExit as end: assert not end.code"
    )
    assert modules_after(program) & HEAVY == set()


@pytest.mark.parametrize("module", ["check", "build", "manifest", "photos", "faces"])
def test_intake_imports_nothing_heavy(module: str) -> None:
    assert modules_after(f"import lynx_batch.intake.{module}, lynx_batch.config") & HEAVY == set()


def test_a_driver_imports_ray_and_nothing_of_the_model() -> None:
    assert modules_after("import lynx_batch.execution.run") & HEAVY == {"ray"}


@pytest.mark.parametrize(
    "code", ["import lynx_batch", "import lynx_model", "from lynx_batch import plan, render, read_metadata"]
)
def test_what_programs_import_is_light(code: str) -> None:
    assert modules_after(code) & HEAVY == set()


def test_what_programs_call_is_exported() -> None:
    for package in (lynx_batch, lynx_model):
        assert all(callable(getattr(package, name)) for name in package.__all__)
        assert set(package.__all__) <= set(dir(package))
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            package.nothing  # noqa: B018


def test_planning_imports_nothing_heavy() -> None:
    assert modules_after("import lynx_batch.preparation.forecast, lynx_batch.planning.plan") & HEAVY == set()
