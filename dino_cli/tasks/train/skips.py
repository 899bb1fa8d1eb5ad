"""Steps that changed nothing: counted on the device, told now and then, too many end the run."""

import torch

from dino_cli.config.train import TrainConfig
from dino_cli.config.values import counted
from dino_cli.core.training.step import StepResult
from dino_cli.errors import TaskError
from dino_cli.progress import Reporter
from dino_cli.runtime import Precision
from dino_cli.store.runs.checkpoints import CheckpointWriter
from dino_cli.store.runs.folder import resume_command

__all__ = ["Skips"]

MOST_SKIPPED = 3  # steps in a row that are not finite
# Steps in a row whose fp16 gradients overflow. The scaler halves its scale at each, from 65,536: a
# dozen may be its search for the right one.
MOST_OVERFLOWED = 20


class Skips:
    """The skipped steps of a run."""

    def __init__(
        self,
        config: TrainConfig,
        writer: CheckpointWriter,
        precision: Precision,
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.config, self.writer, self.precision = config, writer, precision
        self.device, self.reporter = device, reporter
        # Steps that were not finite: since the last line of the log, in a row now, most in a row.
        self._skipped = torch.zeros(3, device=device)
        self._overflowed = torch.zeros((), device=device)  # steps in a row now

    def count(self, result: StepResult) -> None:
        """Add a step, without waiting for the device."""
        count, now, most = self._skipped
        now = (now + 1) * result.skipped
        self._skipped = torch.stack([count + result.skipped, now, torch.maximum(most, now)])
        self._overflowed = (self._overflowed + 1) * result.overflowed

    def tell(self, step: int) -> None:
        """Say how many steps were skipped since the last call. Waits for the device.

        Raises `TaskError` when too many were in a row, which more steps would not mend.
        """
        count, now, most = (int(n) for n in self._skipped.tolist())
        self._skipped *= torch.tensor([0.0, 1.0, 0.0], device=self.device)
        if most >= MOST_SKIPPED or now >= MOST_SKIPPED:
            raise TaskError(
                f"the loss or a gradient was not finite in {most} steps in a row, up to step "
                f"{step}; nothing of them was kept",
                f"go on with: {self._again()} {' or '.join(self._ways())}",
            )
        if count:
            self.reporter.remark(
                f"up to step {step}, {counted(count, 'step')} with a loss or gradient that was not "
                f"finite {'was' if count == 1 else 'were'} skipped; if this repeats, lower --lr, "
                "or use --precision fp32 or a smaller --clip-grad"
            )

    def tell_overflows(self, scale: float, step: int) -> None:
        """Raise `TaskError` when fp16 holds the gradients no more: only the teacher moves then.

        scale: the gradients' now.
        """
        steps = int(self._overflowed.item())
        if steps >= MOST_OVERFLOWED or scale < 1:
            raise TaskError(
                f"gradients overflow in fp16, in {steps} steps in a row up to step {step}, though "
                f"their scale is down to {scale:g}; the weights do not move any more",
                f"go on with: {self._again()} --precision bf16 or --precision fp32",
            )

    def _ways(self) -> list[str]:
        ways = [f"--lr {self.config.lr / 2:g}"]
        if self.precision != "fp32":
            ways.append("--precision fp32")
        if self.config.clip_grad == 0 or self.config.clip_grad > 0.3:
            ways.append("--clip-grad 0.3")
        return ways

    def _again(self) -> str:
        """The command that goes on, once the last checkpoint is on disk."""
        self.writer.flush()
        folder = self.writer.folder
        has = folder.checkpoint.is_file()
        return resume_command(folder.path) if has else "a new run and"
