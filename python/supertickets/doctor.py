"""Is this installation sound? Versions, facts of the machine, and a test of each operator."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import supertickets

_EXTRAS: Mapping[str, Sequence[str]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "vision": ("torchvision", "timm"),
    "pose": ("pycocotools",),
    "track": ("tensorboard",),
}
_WIDTH = 38
_REMEDY = (
    "Build the extension anew for this Python and torch: pip install --no-build-isolation "
    "--force-reinstall --no-deps supertickets (or . in the repository); if only an operator "
    "fails, see whether SUPERTICKETS_ISA=baseline helps, and report it."
)


@dataclass(frozen=True)
class Check:
    """One tested thing.

    Attributes:
        name: What was tested.
        ok: Whether it works.
        detail: What was seen, or the remedy.
    """

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Findings:
    """All that the doctor saw.

    Attributes:
        facts: By name.
        extras: By extra, the packages that are missing.
        checks: What was tested.
    """

    facts: dict[str, Any]
    extras: dict[str, list[str]]
    checks: list[Check] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return {**asdict(self), "healthy": self.healthy}

    def lines(self) -> list[str]:
        """Give everything as lines for a person."""
        lines = [
            f"{name.replace('_', ' '):<{_WIDTH}}{_text(value)}"
            for name, value in self.facts.items()
        ]
        for name, missing in self.extras.items():
            state = f"missing {', '.join(missing)}: {_install(name)}" if missing else "installed"
            lines.append(f"{f'extra [{name}]':<{_WIDTH}}{state}")
        for check in self.checks:
            lines.append(f"{'ok    ' if check.ok else 'FAILED'} {check.name}: {check.detail}")
        if self.healthy:
            return [*lines, "all is well"]
        failed = sum(not check.ok for check in self.checks)
        return [*lines, f"{failed} of {len(self.checks)} checks failed. {_REMEDY}"]


def examine() -> Findings:
    """Look at the installation and test every operator on a small case.

    Returns:
        What was seen; nothing is raised for a broken extension, it is a failed check.
    """
    facts: dict[str, Any] = {
        "supertickets": supertickets.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    extras = {
        name: [package for package in packages if importlib.util.find_spec(package) is None]
        for name, packages in _EXTRAS.items()
    }
    try:
        import torch
    except (ImportError, OSError) as error:
        return Findings(facts, extras, [Check("torch", False, f"{error}; pip install torch")])
    facts["torch"] = torch.__version__
    try:
        from supertickets import machine
        from supertickets_ext.doctor import self_test

        facts |= _machine_facts(machine.machine(), machine.extension_facts())
    except Exception as error:  # whatever it is, it is what the user came to see
        return Findings(facts, extras, [Check("extension", False, str(error))])
    checks = [Check("extension", True, "loads into this torch")]
    checks += [Check(name, ok, detail) for name, ok, detail in self_test()]
    return Findings(facts, extras, checks)


def _machine_facts(machine: Mapping[str, Any], extension: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    found = dict(machine)
    found["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    found |= {f"extension_{name}": value for name, value in extension.items()}
    del found["extension_instruction_set"]  # the machine's facts name it already
    return found


def _install(extra: str) -> str:
    return f"pip install 'supertickets[{extra}]'"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "none"
