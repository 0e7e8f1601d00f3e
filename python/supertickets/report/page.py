"""Put the sections together and write ``report.html``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from supertickets.files import write_text
from supertickets.report import accuracy, cost, layers, numbers, ranking, records, search
from supertickets.report.findings import Finding, dense_row, find, test_count
from supertickets.report.read import Run, read_run

REPORT_FILE = "report.html"


def write_report(run_folder: Path) -> Path:
    """Write the page of a run, finished or not, into its folder.

    The page is one file that refers to nothing outside itself; the same folder content gives the
    same bytes. What has not run yet is named as missing.

    Args:
        run_folder: The folder with ``recipe.yaml`` and one folder per stage.

    Returns:
        Path of the page, ``run_folder/report.html``.

    Raises:
        InputError: The folder is missing, or a file in it cannot be understood.
    """
    folder = Path(run_folder)
    path = folder / REPORT_FILE
    write_text(path, render(read_run(folder)))
    return path


def render(run: Run) -> str:
    """Turn a run into the text of its page.

    Args:
        run: What the run folder says.

    Returns:
        A complete HTML document.
    """
    finding = find(run)
    sections = ranking.sections(run)
    if not run.only_ranks:
        sections += [
            accuracy.section(run, finding),
            search.section(run),
            layers.section(run, finding),
            cost.section(run, finding),
            records.exports(run),
            records.evaluation(run),
        ]
    sections.append(records.making(run))
    environment = Environment(
        loader=FunctionLoader(_packaged),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        run=run,
        finding=finding,
        facts=_facts(run, finding),
        notices=_notices(run),
        sections=sections,
        terms=_RANK_TERMS if run.only_ranks else _TERMS,
        style=Markup(_packaged("page.css")),
        script=Markup(_packaged("page.js")),
    )


def _packaged(name: str) -> str:
    return resources.files("supertickets.report").joinpath(name).read_text(encoding="utf-8")


def _facts(run: Run, finding: Finding) -> list[tuple[str, str, str]]:
    """The few figures a reader wants first: name, value, what it stands on."""
    facts = []
    number, dense = test_count(run), dense_row(run)
    if dense is not None:
        facts.append(_accuracy_fact("Dense network", dense.test_accuracy, number))
    if finding.jackpot is None:
        return facts
    figures = finding.jackpot.figures
    row = figures.row("jackpot")
    if row is not None:
        facts.append(_accuracy_fact("Jackpot", row.test_accuracy, number))
    if figures.density is not None:
        sparsity = numbers.brief_percent(finding.jackpot.sparsity)
        facts.append(("Weights kept", numbers.percent(figures.density), f"at {sparsity} sparsity"))
    if figures.effective_macs is not None and figures.macs:
        share = numbers.percent(figures.effective_macs / figures.macs)
        facts.append(
            ("Effective MACs", numbers.short_count(figures.effective_macs), f"{share} of dense")
        )
    if figures.ticket_bytes is not None:
        dense_size = f"dense: {numbers.size(figures.dense_bytes)}" if figures.dense_bytes else ""
        facts.append(("Ticket on disk", numbers.size(figures.ticket_bytes), dense_size))
    return facts


def _accuracy_fact(name: str, share: float | None, number: int | None) -> tuple[str, str, str]:
    ends = numbers.interval(share, number)
    note = f"95 % interval {numbers.interval_text(ends)}" if ends else ""
    return name, numbers.percent(share), note


def _notices(run: Run) -> list[str]:
    """What a reader must know before trusting the page: stages that are absent or not done."""
    notices = [
        f"Stage {stage.name} is not done: its state is {stage.status!r}."
        for stage in run.stages
        if stage.status != "done"
    ]
    absent = _absent(run)
    if absent:
        listed = ", ".join(numbers.brief_percent(sparsity) for sparsity in absent)
        notices.append(f"The recipe also asks for searches that have not finished: {listed}.")
    return notices


def _absent(run: Run) -> Sequence[float]:
    """Sparsities that the recipe lists and no finished stage has."""
    options = None if run.only_ranks else (run.recipe or {}).get("jackpot")
    wanted = options.get("sparsities") if isinstance(options, dict) else None
    if not isinstance(wanted, list):
        return []
    found = [jackpot.sparsity for jackpot in run.jackpots]
    numbers_only = [value for value in wanted if isinstance(value, int | float)]
    return [value for value in numbers_only if all(abs(value - one) > 1e-9 for one in found)]


_RANK_TERMS = (
    (
        "Kappa",
        "Condition number of the neural tangent kernel of a small network at random weights, over "
        "a batch of images: how hard it is to train. Lower is better.",
    ),
    (
        "R, linear regions",
        "How many patterns of active units small image crops meet in a thin network at random "
        "weights: how much it can express. Higher is better.",
    ),
    (
        "Rank sum",
        "The ranks of a removal by the change of kappa and by the change of R, added. On each open "
        "edge the operations with the lowest sums leave.",
    ),
    (
        "Repeat",
        "One draw of weights and images. Changes are averaged over repeats, each within its draw.",
    ),
)
_TERMS = (
    (
        "Jackpot",
        "A sub-network found by learning only which weights to keep. Weights, biases and the "
        "affine part of batch norm stay as the dense network has them; the running statistics of "
        "batch norm follow the sparser activations.",
    ),
    (
        "Sparsity and density",
        "Sparsity is the share of weights removed, as it was asked for; density is the exact share "
        "kept over all convolution and linear weights, the dense classifier included.",
    ),
    (
        "Magnitude, one shot",
        "Keep the largest weights, change nothing else. With \N{LEFT DOUBLE QUOTATION MARK}BN "
        "re-estimated\N{RIGHT DOUBLE QUOTATION MARK} the running statistics are measured again on "
        "training images: the fair thing to compare with, as the search has that benefit too.",
    ),
    (
        "Random mask, random start",
        "A random mask keeps arbitrary weights at the jackpot's rates per layer, and has its "
        "batch-norm statistics re-estimated. The search from a "
        "random start is the same search begun there, not at the magnitude mask.",
    ),
    (
        "Swaps, restriction",
        "A swap revives one weight and removes another. Wanted swaps are those the scores ask for; "
        "a restriction lets only the clearest of them happen.",
    ),
)
