"""What commands share: the application, its groups, and the options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import choices


def group(name: str, about: str) -> typer.Typer:
    """A group of commands."""
    made = typer.Typer(name=name, help=about, no_args_is_help=True)
    app.add_typer(made, rich_help_panel="Groups of commands")
    return made


app = typer.Typer(
    name="ablatable",
    help="Train a diffusion ensemble whose training data can be removed exactly, and see what it would have drawn "
    "without it.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
universes = group("universe", "Draw counterfactual samples, and see which units matter.")
runs = group("run", "Look into a trained run, draw samples with it, remove units from it.")
audits = group("audit", "Check runs, universes and certificates, trusting nobody.")
studies = group("study", "Run studies over many ensembles; an interrupted study resumes.")


IN_ORDER = (  # as `--help` lists them: what is done first comes first
    (app, ("demo", "plan", "train", "witness", "evaluate", "report", "explore", "doctor")),
    (
        universes,
        (
            *("create", "radius", "influence", "screen", "unattributable", "differential"),
            *("export", "import", "bundle", "push"),
        ),
    ),
    (runs, ("info", "sample", "members", "forget", "repair", "extend", "budget", "adopt", "push")),
)
VERSIONS = ("ablatable", "torch", "diffusers")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(", ".join(f"{package} {version(package)}" for package in VERSIONS))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    pass


def example(*commands: str) -> str:
    """A command's examples, as shown below its help."""
    return "\n\n".join(["Example:", *(f"  {command}" for command in commands)])


# --- arguments ---


def located_run(path: Path | None) -> Path | None:
    """What a run's argument names: `bundled` is the run that comes with the package."""
    if path is None:
        return None
    from ..runs.bundled import located

    return located(path)


RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a trained run, or 'bundled'.", callback=located_run)
]
UniverseUrl = Annotated[str, typer.Argument(metavar="U.zarr", help="A universe: a folder or an object-store URL.")]
Samples = Annotated[
    str | None,
    typer.Option(help="Only these samples of the universe, counted from 0: 0-9, or 1,5,7.", show_default="all"),
]
Data = Annotated[
    str, typer.Argument(metavar="DATA", help="A folder of images, an IDX, .npz or .npy file, digits:48 or openmoji:32.")
]

# --- output ---

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel="Output")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel="Output")]

# --- execution ---

_WORK = "Execution"
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Worker processes; 0 works in this process.",
        show_default="one per core or GPU",
        rich_help_panel=_WORK,
    ),
]
Ray = Annotated[
    str | None, typer.Option(help="Work on a Ray cluster: auto, local, or its address.", rich_help_panel=_WORK)
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda (all GPUs), cuda:0, cuda:1, ..., mps.", rich_help_panel=_WORK)
]
MaxResident = Annotated[
    int | None,
    typer.Option(min=1, help="Components a worker keeps in memory.", show_default="all", rich_help_panel=_WORK),
]

# --- sampling ---

_SAMPLING = "Sampling"
Seeds = Annotated[str, typer.Option(help="One sample per seed: 0-9, or 1,5,7.", rich_help_panel=_SAMPLING)]
Sampler = Annotated[
    choices.Sampler,
    typer.Option(
        metavar="NAME", help=f"How samples are drawn: {choices.told(choices.Sampler)}.", rich_help_panel=_SAMPLING
    ),
]
SamplingSteps = Annotated[int, typer.Option("--steps", min=1, help="Sampling steps.", rich_help_panel=_SAMPLING)]
Clip = Annotated[
    bool,
    typer.Option(
        "--clip/--no-clip",
        help="Bring the image that each step predicts into the range of images.",
        rich_help_panel=_SAMPLING,
    ),
]
Precision = Annotated[
    choices.Precision,
    typer.Option(help="bf16 is faster, and about one grey level off.", rich_help_panel=_SAMPLING),
]
Backend = Annotated[
    choices.Backend | None,
    typer.Option(
        metavar="NAME",
        help=f"What computes the forward passes: {choices.told(choices.Backend)}. On a CPU, openvino pays from half a "
        "minute of drawing, compiled from ten minutes; stacked is for small components on a GPU.",
        show_default="compiled on a CUDA GPU, else eager",
        rich_help_panel=_SAMPLING,
    ),
]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", hidden=True, help="As --backend compiled, or eager.")
]
Stacked = Annotated[bool, typer.Option("--stacked", hidden=True, help="As --backend stacked.")]
Threshold = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=255,
        help="Draw in black and white: grey levels from this one on become white.",
        rich_help_panel=_SAMPLING,
    ),
]
_CONDITIONS = "Conditions, for components that take them"
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="CLASS",
        help="Class to draw; repeat it as often as there are seeds to give each its own.",
        show_default="none",
        rich_help_panel=_CONDITIONS,
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Text to draw; repeat it as often as there are seeds to give each its own.",
        show_default="none",
        rich_help_panel=_CONDITIONS,
    ),
]
NegativePrompt = Annotated[
    str | None, typer.Option(help="Text to lead away from, with --guidance.", rich_help_panel=_CONDITIONS)
]
Guidance = Annotated[
    float,
    typer.Option(
        min=0, help="How far conditions are followed: 1 as they are, more exaggerates.", rich_help_panel=_CONDITIONS
    ),
]
Spares = Annotated[
    int,
    typer.Option(
        min=0,
        help="Spare codewords to ablate as well; they remove no unit, so influence is tested against them.",
        rich_help_panel=_SAMPLING,
    ),
]
OnlyUnits = Annotated[
    list[str] | None,
    typer.Option(
        "--unit",
        metavar="UNIT",
        help="Remove only this unit; repeat for more.",
        show_default="every unit",
        rich_help_panel=_SAMPLING,
    ),
]

# --- data ---

UnitColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of metadata.csv whose values are the units, for example artist; or folder.", rich_help_panel="Data"
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        help="Column whose values are the images' labels (openmoji: group; digits: label).", rich_help_panel="Data"
    ),
]
CaptionColumn = Annotated[
    str | None,
    typer.Option(help="Column whose values are the images' captions (openmoji: annotation).", rich_help_panel="Data"),
]
Source = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="Read the units from here, not from the run.", rich_help_panel="Data"),
]

# --- the code ---

_CODE = "Code"
Components = Annotated[
    int | None, typer.Option(help="Components.", show_default="what 'ablatable plan' recommends", rich_help_panel=_CODE)
]
Weight = Annotated[
    int | None,
    typer.Option(help="Components that train on each unit.", show_default="half of them", rich_help_panel=_CODE),
]
Even = Annotated[
    bool,
    typer.Option(
        "--even",
        help="Give components equal numbers of images, if units are very unequal; tests are then approximate.",
        rich_help_panel=_CODE,
    ),
]
Removals = Annotated[
    int | None,
    typer.Option(min=1, help="Choose a code that survives this many removals of random units.", rich_help_panel=_CODE),
]
