"""Trains the demo's model: `python -m jobs.demo.training STEP`, from the repository's root. README.md here explains each step."""

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from pydantic import ValidationError

from jobs.demo.training.config import RECIPE, load_recipe
from lynx_model.errors import LynxError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

State = Annotated[Path, typer.Option(help="Folder of everything that the steps write; a step goes on from it.")]
RecipeFile = Annotated[Path, typer.Option("--recipe", help="Sizes and seconds of all steps.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Toy sizes: every step in seconds, on a CPU.")]
Device = Annotated[str, typer.Option(help="Where to compute.")]
Piece = Annotated[float | None, typer.Option("--seconds", help="Stop after so many seconds; a later call goes on.")]

FacePack = Annotated[Path, typer.Option(help="The free face pack.")]

STATE = Path("out/training")
FACES = Path(".cache/faces/free")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@app.command()
def prepare(
    portraits: Annotated[Path, typer.Argument(help="A folder of portraits; README.md says where to get ours.")],
    faces: FacePack = FACES,
    state: State = STATE,
    recipe: RecipeFile = RECIPE,
    is_smoke: Smoke = False,
) -> None:
    """Portraits -> people that can be moved, places, prompts, tokenizer and recogniser. Needs no GPU."""
    from jobs.demo.training.prepare import prepare as run

    data = load_recipe(recipe, is_smoke=is_smoke).data
    run(portraits, faces, state, prompts_per_scene=data.num_prompts, variants_per_place=data.num_places)


@app.command()
def vae(
    state: State = STATE,
    recipe: RecipeFile = RECIPE,
    is_smoke: Smoke = False,
    device: Device = DEVICE,
    piece_s: Piece = None,
) -> None:
    """Train the VAE."""
    from jobs.demo.training.vae import train_vae

    train_vae(load_recipe(recipe, is_smoke=is_smoke), state, torch.device(device), piece_s=piece_s)


@app.command()
def latents(
    state: State = STATE, recipe: RecipeFile = RECIPE, is_smoke: Smoke = False, device: Device = DEVICE
) -> None:
    """Draw the clips and photos, and encode them with the VAE."""
    from jobs.demo.training.latents import make_latents

    make_latents(load_recipe(recipe, is_smoke=is_smoke), state, torch.device(device))


@app.command()
def scene_judge(
    state: State = STATE, recipe: RecipeFile = RECIPE, is_smoke: Smoke = False, device: Device = DEVICE
) -> None:
    """Train the network that says which scene a clip shows; `judge` uses it."""
    from jobs.demo.training.scene_judge import train_scene_judge

    train_scene_judge(load_recipe(recipe, is_smoke=is_smoke), state, torch.device(device))


@app.command()
def full(
    state: State = STATE,
    recipe: RecipeFile = RECIPE,
    is_smoke: Smoke = False,
    device: Device = DEVICE,
    piece_s: Piece = None,
) -> None:
    """Train the base model with the adapters of Lynx-full."""
    _train_denoiser(state, recipe, is_smoke, device, piece_s, is_lite=False)


@app.command()
def lite(
    state: State = STATE,
    recipe: RecipeFile = RECIPE,
    is_smoke: Smoke = False,
    device: Device = DEVICE,
    piece_s: Piece = None,
) -> None:
    """Train the adapters of Lynx-lite on the base model that `full` trained."""
    _train_denoiser(state, recipe, is_smoke, device, piece_s, is_lite=True)


@app.command()
def judge(
    portraits: Annotated[Path, typer.Argument(help="The folder that `prepare` took.")],
    model: Annotated[
        Path | None, typer.Option(help="The model to judge; the one in the state's folder if left out.")
    ] = None,
    faces: FacePack = FACES,
    state: State = STATE,
    recipe: RecipeFile = RECIPE,
    is_smoke: Smoke = False,
) -> None:
    """Render held-out people on this machine's CPU, and measure likeness, and whether prompts are followed."""
    from jobs.demo.training.judge import judge as run

    run(load_recipe(recipe, is_smoke=is_smoke), model or state / "model", portraits, faces, state)


def _train_denoiser(
    state: Path, recipe: Path, is_smoke: bool, device: str, piece_s: float | None, *, is_lite: bool
) -> None:
    from jobs.demo.training.denoiser import train_denoiser

    values = load_recipe(recipe, is_smoke=is_smoke)
    train_denoiser(values, state, torch.device(device), is_lite=is_lite, piece_s=piece_s)


def main() -> None:
    """Runs a step. What the user can mend ends in one line and exit code 2."""
    try:
        app()
    except (FileNotFoundError, LynxError, ValidationError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
