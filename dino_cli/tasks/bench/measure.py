"""Two ways of one work, timed in turn, so that whatever else the machine does hits both."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

import torch

from dino_cli.errors import UsageError
from dino_cli.progress import Reporter

__all__ = ["PairedTimes", "describe", "finish", "paired", "row"]

LEAST = 3  # pairs


@dataclass(frozen=True, kw_only=True)
class PairedTimes:
    """Medians over the pairs. ours, reference: seconds by the clock on the wall. ratio: reference
    to ours, of each pair. cpu_ratio: the same of processor time, which others on the machine
    disturb less; None where the processor does not do the work."""

    ours: float
    reference: float
    ratio: float
    cpu_ratio: float | None
    pairs: int


def paired(
    ours: Callable[[], object],
    reference: Callable[[], object],
    *,
    seconds: float,
    device: torch.device,
    reporter: Reporter,
    name: str,
    share: float = 1.0,
) -> PairedTimes:
    """Run both once unmeasured, then in turn, each first every other time, for about that share of
    `seconds`."""
    if not seconds >= 0:
        raise UsageError(f"--seconds {seconds:g} is not a time", "use --seconds 20")
    reporter.stage(name, None, "pairs")
    ours()
    reference()
    finish(device)
    times: list[tuple[float, float]] = []
    cpu: list[tuple[float, float]] = []
    end = time.monotonic() + share * seconds
    while len(times) < LEAST or time.monotonic() < end:
        if len(times) % 2:
            theirs = _timed(reference, device)
            own = _timed(ours, device)
        else:
            own = _timed(ours, device)
            theirs = _timed(reference, device)
        times.append((own[0], theirs[0]))
        cpu.append((own[1], theirs[1]))
        reporter.advance()
    reporter.finish()
    return PairedTimes(
        ours=median(a for a, _ in times),
        reference=median(b for _, b in times),
        ratio=median(b / a for a, b in times),
        cpu_ratio=median(b / max(a, 1e-9) for a, b in cpu) if device.type == "cpu" else None,
        pairs=len(times),
    )


def row(
    work: str,
    pair: PairedTimes,
    per: int,
    unit: str,
    *,
    limit: float,
    limit_is: str,
) -> dict[str, object]:
    """One line of a result. per: units of work in a measurement; limit: seconds that one unit
    would take at the limit that is named, a measured peak."""
    return {
        "work": work,
        "unit": f"ms/{unit}",
        "ours": round(1000 * pair.ours / per, 4),
        "reference": round(1000 * pair.reference / per, 4),
        "ratio": round(pair.ratio, 3),
        "cpu_ratio": round(pair.cpu_ratio, 3) if pair.cpu_ratio is not None else None,
        "limit": round(1000 * limit, 4),
        "limit_is": limit_is,
        "share_of_limit": round(limit * per / pair.ours, 4),
        "pairs": pair.pairs,
    }


def describe(device: torch.device) -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "versions": {
            name: version(name) for name in ("torch", "torchvision", "timm", "pillow", "numpy")
        },
    }


def _timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and of processor time, this process and those it has waited for."""
    cpu, wall = _processor(), time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - wall, _processor() - cpu


def _processor() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
