"""Where results and news go, and how an error is told."""

from __future__ import annotations

import json
import os
import traceback
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console

from supertickets.errors import InputError, SuperticketsError

RUN_FAILED = 1
BAD_INPUT = 2


@dataclass(frozen=True)
class Output:
    """Results on standard output, everything else on standard error.

    Attributes:
        as_json: Whether the result is one JSON object instead of lines.
    """

    as_json: bool = False

    def news(self, line: str) -> None:
        """Tell how the work goes on."""
        from supertickets.training import is_main_process

        if is_main_process():
            Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)

    def result(self, value: Any, lines: list[str]) -> None:
        """Give the result, once, at the end.

        Args:
            value: For machines.
            lines: The same for people.
        """
        from supertickets.training import is_main_process

        if is_main_process():
            typer.echo(json.dumps(value, indent=2) if self.as_json else "\n".join(lines))


def report_error(error: Exception, output: Output, *, debug: bool) -> int:
    """Tell an error in a line or two on standard error.

    Args:
        error: What happened.
        output: Of the command; with JSON, the error is also given there.
        debug: Show the traceback first.

    Returns:
        The exit code: 2 for bad input, 1 for everything else.
    """
    if debug:
        traceback.print_exception(error)
    known = isinstance(error, (SuperticketsError, ImportError))
    code = BAD_INPUT if isinstance(error, InputError) else RUN_FAILED
    message = str(error) if known else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        message = f"{error.strerror or error}: {error.filename or 'unknown file'}"
    hint = "" if known or debug else "\n(--debug shows where it happened)"
    # torchrun's variable is read here, not through torch, whose import may be what failed
    if output.as_json and os.environ.get("RANK", "0") == "0":
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"error: {message}{hint}", markup=False
    )
    return code
