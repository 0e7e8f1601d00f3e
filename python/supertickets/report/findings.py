"""What a run found, in words: chosen by rule from the figures, whether they please or not."""

from __future__ import annotations

from dataclasses import dataclass

from supertickets.report import numbers
from supertickets.report.read import Jackpot, Row, Run

NEAR = 0.02  # how far below dense, on validation images, a jackpot may be to count as near


@dataclass(frozen=True)
class Finding:
    """The headline, what stands under it, and the jackpot they speak of."""

    headline: str
    support: tuple[str, ...]
    jackpot: Jackpot | None = None
    near: bool = False


@dataclass(frozen=True)
class Scored:
    """A jackpot with the accuracies that a comparison needs."""

    jackpot: Jackpot
    row: Row
    accuracy: float
    validation: float | None


def dense_row(run: Run) -> Row | None:
    """Give the dense network's row; its epochs are those of its training, where it was trained."""
    compared = [jackpot.figures.row("dense") for jackpot in run.jackpots]
    found = next((row for row in compared if row and row.test_accuracy is not None), None)
    trained = next((one for _, one in run.trainings if one.test_accuracy is not None), None)
    if trained is None:
        return found
    epochs = len(trained.history) or None
    if found is not None:
        return found.model_copy(update={"epochs": epochs})
    return Row(
        name="dense",
        test_accuracy=trained.test_accuracy,
        validation_accuracy=trained.validation_accuracy,
        density=1.0,
        effective_macs=trained.macs,
        epochs=epochs,
    )


def test_count(run: Run) -> int | None:
    """Give the number of test images that every accuracy stands on."""
    counts = [training.test_count for _, training in run.trainings]
    counts += [jackpot.figures.test_count for jackpot in run.jackpots]
    return next((number for number in counts if number), None)


def find(run: Run) -> Finding:
    """Choose the headline.

    The jackpot spoken of is the sparsest one whose validation accuracy is within two points of
    the dense network's; without one, the jackpot nearest to dense. Validation decides, so that
    the test accuracy that is printed was not chosen for its value.

    Args:
        run: The run, finished or not.

    Returns:
        The headline and the sentences under it.
    """
    dense = dense_row(run)
    scored = _scored(run)
    if not scored:
        return _without_jackpot(run, dense)
    if dense is None or dense.test_accuracy is None:
        best = max(scored, key=_order)
        return Finding(
            f"A sub-network with {_share(best)} of the weights scores "
            f"{numbers.percent(best.accuracy)}; the dense network was not scored.",
            (),
            best.jackpot,
        )
    near = [one for one in scored if _gap(one, dense) <= NEAR + 1e-9]
    if near:
        chosen = max(near, key=lambda one: one.jackpot.sparsity)
        headline = _headline(chosen, dense.test_accuracy)
    else:
        chosen = max(scored, key=_order)
        headline = (
            f"No sub-network within 2 points of the dense network was found: the nearest keeps "
            f"{_share(chosen)} of the weights and scores {numbers.percent(chosen.accuracy)}, "
            f"the dense network {numbers.percent(dense.test_accuracy)}."
        )
    return Finding(headline, _support(run, chosen, dense, bool(near)), chosen.jackpot, bool(near))


def versus(one: float, other: float) -> str:
    """Say how one accuracy stands to another: ``6.4 points above`` or ``level with``."""
    if numbers.signed_points(one - other) == "0.0":
        return "level with"
    return f"{numbers.points(one - other)} {'above' if one > other else 'below'}"


def _scored(run: Run) -> list[Scored]:
    found = []
    for jackpot in run.jackpots:
        row = jackpot.figures.row("jackpot")
        if row is not None and row.test_accuracy is not None:
            found.append(Scored(jackpot, row, row.test_accuracy, row.validation_accuracy))
    return found


def _order(one: Scored) -> float:
    return one.validation if one.validation is not None else one.accuracy


def _gap(one: Scored, dense: Row) -> float:
    """How far below dense: on validation images where both were scored on them."""
    if one.validation is not None and dense.validation_accuracy is not None:
        return dense.validation_accuracy - one.validation
    assert dense.test_accuracy is not None
    return dense.test_accuracy - one.accuracy


def _share(one: Scored) -> str:
    density = one.row.density if one.row.density is not None else one.jackpot.figures.density
    return numbers.brief_share(density if density is not None else 1 - one.jackpot.sparsity)


def _headline(one: Scored, dense: float) -> str:
    if one.row.retrained:
        return (
            f"A network of {numbers.percent(dense)} holds a sub-network with {_share(one)} of its "
            f"weights that scores {numbers.percent(one.accuracy)} after those weights were tuned."
        )
    return (
        f"A network frozen at {numbers.percent(dense)} holds a sub-network with {_share(one)} of "
        f"its weights that scores {numbers.percent(one.accuracy)}. No weight was changed."
    )


def _support(run: Run, one: Scored, dense: Row, near: bool) -> tuple[str, ...]:
    sentences = [_comparison(one, "magnitude-bn"), _beyond(run, one, dense) if near else ""]
    return tuple(sentence for sentence in sentences if sentence)


def _comparison(one: Scored, name: str) -> str:
    """Set the jackpot beside what anybody could have had without a search."""
    other = one.jackpot.figures.row(name)
    if other is None or other.test_accuracy is None:
        return ""
    plain = (
        f"Magnitude pruning to the same size, with its batch-norm statistics re-estimated, scores "
        f"{numbers.percent(other.test_accuracy)}: "
    )
    difference = one.accuracy - other.test_accuracy
    if numbers.signed_points(difference) == "0.0":
        return plain + "the search gained nothing on these images."
    if difference < 0:
        return plain + f"the search lost {numbers.points(difference)} against it."
    return plain + f"the search gained {numbers.points(difference)}."


def _beyond(run: Run, one: Scored, dense: Row) -> str:
    """Say what the next sparser jackpot lost; a reader should not have to look for the limit."""
    beyond = [other for other in _scored(run) if other.jackpot.sparsity > one.jackpot.sparsity]
    if not beyond or dense.test_accuracy is None:
        return ""
    other = beyond[0]
    return (
        f"At {numbers.brief_percent(other.jackpot.sparsity)} sparsity the jackpot scores "
        f"{numbers.percent(other.accuracy)}, "
        f"{versus(other.accuracy, dense.test_accuracy)} the dense network."
    )


def _without_jackpot(run: Run, dense: Row | None) -> Finding:
    if run.only_ranks:
        return _ranked(run)
    if run.jackpots:
        return Finding("Mask searches have ended, but none of them recorded a test accuracy.", ())
    if dense is None:
        return Finding("Nothing to report yet: no stage of this run has been scored.", ())
    return Finding(
        f"A dense network is trained and scores {numbers.percent(dense.test_accuracy)}; "
        f"no mask search has finished yet.",
        (),
    )


def _ranked(run: Run) -> Finding:
    """Name the architecture that was found, or what was compared with a table."""
    if run.searches:
        _, figures = run.searches[-1]
        size = f"{numbers.short_count(figures.parameters)} parameters"
        removals = sum(len(one.removals) for one in figures.rounds)
        headline = f"One architecture of {figures.space or 'the space'}, {size}, without training."
        return Finding(headline, (f"{removals} removals were judged by kappa and R.",))
    _, compared = run.correlations[-1]
    return Finding(f"Scores of {compared.cells} untrained architectures, and their accuracies.", ())
