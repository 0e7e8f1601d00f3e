"""The options that all commands share, described once."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from supertickets.cli.output import Output, report_error

P = ParamSpec("P")

_RECIPE = "from the recipe"


@dataclass(frozen=True)
class Common:
    """What every command that works on a recipe takes."""

    config: Annotated[
        Path | None,
        typer.Option(help="Recipe file in YAML; keys it leaves out have their defaults."),
    ] = None
    recipe: Annotated[str, typer.Option(help="Recipe of this package, taken without --config.")] = (
        "digits"
    )
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default=_RECIPE)] = None
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs")
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, shapes, folder, cifar10, cifar100, imagenet, idx, cityscapes, ade20k, "
            "camvid, masks or coco.",
            show_default=_RECIPE,
        ),
    ] = None
    path: Annotated[
        Path | None, typer.Option(help="Where the images are.", show_default=_RECIPE)
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help="A net of this package, such as resnet20, or your own: package.module:factory.",
            show_default=_RECIPE,
        ),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option(
            help="State dict (safetensors or .pt) of a trained network, which is then not trained; "
            "for the command train: to start from.",
            show_default=_RECIPE,
        ),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed.", show_default=_RECIPE)] = None
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:<index>.", show_default=_RECIPE)
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of the kernels; 0: torch decides.", show_default=_RECIPE),
    ] = None
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the curves for TensorBoard.")
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the stages, and stop.")
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; news go to standard error.")
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    @property
    def output(self) -> Output:
        """Where results and news of this call go."""
        return Output(as_json=self.json)


def with_common(command: Callable[Concatenate[Common, P], None]) -> Callable[..., None]:
    """Give a command the shared options, and turn errors into a line and an exit code.

    Args:
        command: Takes a :class:`Common` first, then its own arguments and options.

    Returns:
        The function that typer sees: the command's own parameters, then those of ``Common``.
    """
    shared = [field.name for field in fields(Common)]
    hints = get_type_hints(Common, include_extras=True)
    own = get_type_hints(command, include_extras=True)
    parameters = list(inspect.signature(command).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    signature = [p.replace(annotation=own[p.name], kind=keyword) for p in parameters] + [
        inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name])
        for f in fields(Common)
    ]

    @wraps(command)
    def guarded(**given: Any) -> None:
        common = Common(**{name: given.pop(name) for name in shared})
        try:
            command(common, **given)  # type: ignore[call-arg]
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            again = shlex.join(["supertickets", *sys.argv[1:]])
            common.output.news(f"interrupted; go on with the same command: {again}")
            raise typer.Exit(130) from None
        except Exception as error:
            raise typer.Exit(report_error(error, common.output, debug=common.debug)) from error

    guarded.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    guarded.__annotations__ = {p.name: p.annotation for p in signature} | {"return": None}
    return guarded
