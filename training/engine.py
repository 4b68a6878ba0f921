"""Devices, processes and precision of a training run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from preprocessing.errors import UsageError
from training.precision import choose_precision
from training.run import INSTALL

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Engine:
    """Hardware options of a training run.

    Attributes:
        accelerator: Device type; "auto" uses a GPU if there is one.
        devices: Number of processes, each with its own device and a share of every batch.
        strategy: Distribution strategy; "auto" is "ddp" for more than one process.
        precision: Precision of the networks; losses and weights stay in float32. "auto" takes what a short trial finds
            fast: bf16 needs a GPU or a CPU that computes in it. On a CPU "16-mixed" means bf16.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["auto", "bf16-mixed", "16-mixed", "32-true"] = "auto"

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UsageError(f"devices must be 1 or more, not {self.devices}")

    def launch(self) -> Fabric:
        """Starts the processes; all of them run the code that follows.

        Raises:
            UsageError: Fabric is not installed, or the devices are not available.
        """
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.utilities.exceptions import MisconfigurationException
        except ImportError:
            raise UsageError(f"training needs lightning-fabric: {INSTALL}") from None
        precision = choose_precision(self.accelerator) if self.precision == "auto" else self.precision
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it logs the precision and every process
        try:
            fabric = Fabric(
                accelerator=self.accelerator, strategy=self.strategy, devices=self.devices, precision=precision  # type: ignore[arg-type]
            )  # fmt: skip
        except (MisconfigurationException, RuntimeError) as error:
            raise UsageError(f"{self.devices} x {self.accelerator} is not available: {error}") from error
        fabric.launch()
        return fabric
