"""Products of K vectors with a Jacobian: one at a time, or in chunks that the memory budget allows.

A chunk is one pass over all its vectors (``torch.func.vmap`` below autograd). It saves the calls of
small operators and loses where convolutions are large, so the first vectors are timed both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from supertickets_ext._graph import spare_buffers
from supertickets_ext._jacobian_loop import write_row
from supertickets_ext._jacobian_problem import Problem, checked_logits
from supertickets_ext._timing import seconds_now

_MOST = 32  # vectors of a chunk: beyond it nothing is saved any more
_SINGLES = 2  # timed before a chunk is tried; the first sets up memory

Vectors = Callable[[int, int], None]


def vjp_rows(
    problem: Problem, x: Tensor, cotangents: Tensor, check: Callable[[Tensor], None]
) -> dict[str, Tensor]:
    """Gradients ``[K, *shape]`` by name; ``check`` sees the logits first."""
    with problem.forward() as (logits, leaves):
        with _saved_bytes() as saved:
            out = logits(x)
        check(out)
        rows = {name: out.new_empty(len(cotangents), *p.shape) for name, p in leaves.items()}
        sizes = [p.numel() for p in leaves.values()]
        row = out.detach().new_empty(sum(sizes))

        def single(k: int, _: int) -> None:
            write_row(row, (out * cotangents[k]).sum(), list(leaves.values()))
            for value, part in zip(rows.values(), row.split(sizes), strict=True):
                value[k] = part.view(value.shape[1:])

        def chunk(begin: int, end: int) -> None:
            grads = torch.autograd.grad(
                out, list(leaves.values()), cotangents[begin:end], retain_graph=True,
                allow_unused=True, is_grads_batched=True,
            )  # fmt: skip
            for value, grad in zip(rows.values(), grads, strict=True):
                value[begin:end] = 0 if grad is None else grad

        most = problem.budget // max(1, saved[0] + row.numel() * row.element_size())
        if not out.requires_grad:
            most = 1
        _run(len(cotangents), min(_MOST, most), single, chunk, x.device)
    return {name: value.detach() for name, value in rows.items()}


def jvp_columns(problem: Problem, x: Tensor, tangents: Mapping[str, Tensor], count: int) -> Tensor:
    """Derivatives ``[K, N, C]`` of the logits."""
    model = problem.model
    columns: list[Tensor | None] = [None] * count
    with problem.forward() as (_, leaves), _no_statistics(model):
        state = {name: p.detach() for name, p in leaves.items()}
        points = {name: state.get(name, tangents[name][0]) for name in tangents}
        given = {name: t.detach() for name, t in tangents.items()}

        def logits(moved: dict[str, Tensor]) -> Tensor:
            buffers = {name: b.clone() for name, b in model.named_buffers()}
            out = functional_call(model, {**state, **moved, **buffers}, (x.detach(),))
            return checked_logits(problem.op, out, x)

        def column(tangent: dict[str, Tensor]) -> Tensor:
            out: Tensor = jvp(logits, (points,), (tangent,))[1]
            return out

        def single(k: int, _: int) -> None:
            columns[k] = column({name: t[k] for name, t in given.items()})

        def chunk(begin: int, end: int) -> None:
            part = {name: t[begin:end] for name, t in given.items()}
            columns[begin:end] = list(vmap(column)(part).unbind())

        most = 1
        if count > _SINGLES + 1:
            with _saved_bytes() as saved:
                logits({name: p.requires_grad_() for name, p in points.items()})
            most = problem.budget // max(1, saved[0])
        with torch.no_grad():
            points = {name: p.detach() for name, p in points.items()}
            _run(count, min(_MOST, most), single, chunk, x.device)
    return torch.stack([c for c in columns if c is not None])


def _run(count: int, most: int, single: Vectors, chunk: Vectors, device: torch.device) -> None:
    """Do all vectors; chunks of at most ``most`` if they are faster, and possible at all."""
    done, seconds = 0, 0.0
    while done < min(count, _SINGLES):
        seconds = _timed(single, done, done + 1, device)
        done += 1
    while done < count:
        size = min(most, count - done)
        if size > 1:
            try:
                each = _timed(chunk, done, done + size, device) / size
            except RuntimeError:  # an operator without a rule for vmap
                each = seconds
            else:
                done += size
            if each >= seconds:
                most = 1
            continue
        single(done, done + 1)
        done += 1


def _timed(run: Vectors, begin: int, end: int, device: torch.device) -> float:
    start = seconds_now(device)
    run(begin, end)
    return seconds_now(device) - start


@contextmanager
def _saved_bytes() -> Iterator[list[int]]:
    """Count what autograd saves: a chunk needs about as much again for each of its vectors."""
    total, seen = [0], set()

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in seen:
            seen.add(memory.data_ptr())
            total[0] += memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


@contextmanager
def _no_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms in training mode would write running statistics, which vmap cannot."""
    with spare_buffers(list(model.modules())):
        yield
