"""`lynx-batch one`: a photo and a prompt become a file, without a cluster."""

import io
import json
import subprocess
import sys
from pathlib import Path

import c2pa
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from lynx_batch.cli import app
from lynx_batch.delivery.video import read_tags
from tests.builders import COLLINS, HOPPER, row
from tests.jobs import Job, decode

SMALL = ["--set", "defaults.num_inference_steps=2"]


@pytest.fixture
def run_file(tmp_path: Path, face_pack: Path) -> Path:
    Job(folder=tmp_path, face_pack=face_pack, rows=[row()])
    return tmp_path / "run.yaml"


def test_a_photo_and_a_prompt_become_a_video(run_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "videos" / "clip.mp4"
    result = CliRunner().invoke(
        app, ["one", str(COLLINS), "A person waves.", "--run", str(run_file), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert decode(out).shape == (5, 48, 64, 3)


def test_a_single_clip_is_marked_like_those_of_a_run(run_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    marks = "{require_consent: false, marking: required, label: {text: AI}, aigc: {content_producer: Example}, c2pa: {certificates: development}}"
    command = ["one", str(COLLINS), "A person waves.", "--run", str(run_file), "--out", str(out)]
    result = CliRunner().invoke(app, [*command, *SMALL, "--set", f"provenance={marks}"])
    assert result.exit_code == 0, result.output
    assert '"ContentProducer":"Example"' in read_tags(out.read_bytes())["AIGC"]
    with c2pa.Reader("video/mp4", io.BytesIO(out.read_bytes())) as reader:
        assert reader.get_validation_state() == "Valid"


def test_more_photos_and_a_seed_change_the_clip(run_file: Path, tmp_path: Path) -> None:
    ImageOps.mirror(Image.open(COLLINS)).save(tmp_path / "mirrored.png")
    command = ["one", str(COLLINS), "A person waves.", "--run", str(run_file), *SMALL]
    clips = []
    for options in (["--seed", "7"], ["--seed", "8"], ["--seed", "7", "--photo", str(tmp_path / "mirrored.png")]):
        out = tmp_path / f"{len(clips)}.mp4"
        result = CliRunner().invoke(app, [*command, "--out", str(out), *options])
        assert result.exit_code == 0, result.output
        assert f"seed {options[1]}" in result.stdout
        clips.append(decode(out).astype(int))
    assert all(abs(clips[0] - clip).mean() > 0.1 for clip in clips[1:])


def test_a_bad_photo_or_prompt_is_told_before_torch_is_loaded(run_file: Path, tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), "grey").save(tmp_path / "grey.png")
    options = ["--run", str(run_file), "--set", "model.adapters=nowhere", "--out", str(tmp_path / "clip.mp4")]
    commands = {
        "grey.png: NoFaceFound: photo: must show a face; 0 found": [str(tmp_path / "grey.png"), "Hi."],
        "DifferentPeople: must show the same person": [str(COLLINS), "Hi.", "--photo", str(HOPPER)],
        "the model reads at most 512": [str(COLLINS), "wave " * 600],
    }
    script = (
        "import sys, json\n"
        "from lynx_batch.cli import app\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try: app(command)\n"
        "    except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    argument = json.dumps([["one", *command, *options] for command in commands.values()])
    done = subprocess.run([sys.executable, "-c", script, argument], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n" * 3
    assert [fault for fault in commands if fault not in done.stderr] == []


def test_the_prompt_may_be_a_text_file(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("她微笑着,看向镜头。\n", encoding="utf-8")
    for name, prompt in (("a.mp4", "她微笑着,看向镜头。"), ("b.mp4", str(tmp_path / "prompt.txt"))):
        command = ["one", str(COLLINS), prompt, "--run", str(run_file), "--out", str(tmp_path / name), *SMALL]
        assert CliRunner().invoke(app, command).exit_code == 0
    difference = decode(tmp_path / "a.mp4").astype(int) - decode(tmp_path / "b.mp4")
    assert abs(difference).mean() < 2, "the same picture, but for the encoder"


@pytest.mark.parametrize(
    ("photo", "options", "fault"),
    [
        ("nowhere.jpg", [], "nowhere.jpg"),
        (str(COLLINS), ["--set", "defaults.width=100"], "width"),
        (str(COLLINS), ["--set", "faces.identity=arcface"], "arcface-ir-se50"),
        (str(COLLINS), ["--set", "model.adapters=nowhere"], "nowhere"),
        (str(COLLINS), ["--set", "model.loras=[nowhere]"], "nowhere"),
        (str(COLLINS), ["--set", "defaults.ip_blocks=0-4"], "ip_blocks"),
        (str(COLLINS), ["--face-index", "1"], "face_index"),
        (
            str(COLLINS),
            [
                "--set",
                "provenance={require_consent: false, marking: try, label: {text: 'AI-generated video, as every viewer can see'}}",
            ],
            "must fit into",
        ),
        (str(COLLINS), ["--set", "provenance={require_consent: false, marking: try, watermark: no.jit}"], "no.jit"),
        (str(COLLINS), ["--out", "."], "--out .: must be a file"),
    ],
)
def test_a_fault_is_told_before_anything_is_loaded(
    run_file: Path, tmp_path: Path, photo: str, options: list[str], fault: str
) -> None:
    out = tmp_path / "clip.mp4"
    result = CliRunner().invoke(app, ["one", photo, "Hi.", "--run", str(run_file), "--out", str(out), *options])
    assert result.exit_code == 2
    assert fault in result.stderr
    assert "loading" not in result.output
    assert not out.exists()


def test_a_prompt_may_be_longer_than_a_files_name_can_be(run_file: Path, tmp_path: Path) -> None:
    out, prompt = tmp_path / "clip.mp4", "A person waves. " * 40
    command = ["one", str(COLLINS), prompt, "--run", str(run_file), "--out", str(out), "--set", "defaults.width=100"]
    assert "width" in CliRunner().invoke(app, command).stderr


def test_a_prompt_file_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"\xff\xfe\xff")
    refused = CliRunner().invoke(app, ["one", str(COLLINS), str(tmp_path / "prompt.txt")])
    assert (refused.exit_code, "must be a prompt or a text file: " in refused.stderr) == (2, True)


def test_an_override_is_looked_at_without_a_run_file_too() -> None:
    refused = CliRunner().invoke(app, ["one", str(COLLINS), "Hi.", "--set", "nonsense.key=5"])
    assert (refused.exit_code, "nonsense" in refused.stderr) == (2, True)


def test_a_clip_without_consent_is_refused_unless_that_is_allowed(run_file: Path, tmp_path: Path) -> None:
    use = "provenance={require_consent: true, use: {scope: ad, regions: [EU]}}"
    strict = ["one", str(COLLINS), "Hi.", "--run", str(run_file), "--set", use, *SMALL]
    refused = CliRunner().invoke(app, [*strict, "--out", str(tmp_path / "a.mp4")])
    assert refused.exit_code == 2
    assert "ConsentMissing: consent_ref=None: required" in refused.stderr
    too_narrow = CliRunner().invoke(
        app, [*strict, "--consent-ref", "CRM-1", "--consent-scope", "ad", "--regions", "US"]
    )
    assert "ConsentTooNarrow: regions='US': must include EU" in too_narrow.stderr
    consent = ["--consent-ref", "CRM-1", "--consent-scope", "ad,social", "--regions", "EU,US"]
    for name, options in (("b.mp4", consent), ("c.mp4", ["--allow-missing-consent"])):
        assert CliRunner().invoke(app, [*strict, *options, "--out", str(tmp_path / name)]).exit_code == 0
        assert decode(tmp_path / name).shape == (5, 48, 64, 3)
