"""Where a training runs: on which devices, in how many processes, at which precision."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from preprocessing.errors import UsageError
from training.run import INSTALL

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Engine:
    """The machine's part of a training.

    Attributes:
        accelerator: "auto" takes a GPU where there is one.
        devices: Processes, each on a device of its own and with its share of every step.
        strategy: How processes work together; "auto" is "ddp" for several.
        precision: Of the networks; losses and weights are 32 bits. On the CPU bf16 is 1.6 times as fast for our expert;
            fp16 ("16-mixed", for GPUs without bf16) is bf16 there.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["bf16-mixed", "16-mixed", "32-true"] = "bf16-mixed"

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UsageError(f"devices must be 1 or more, not {self.devices}")

    def launch(self) -> Fabric:
        """Starts the processes; from here on each of them runs.

        Raises:
            UsageError: Fabric is not installed, or the machine has no such devices.
        """
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.utilities.exceptions import MisconfigurationException
        except ImportError:
            raise UsageError(f"training needs lightning-fabric: {INSTALL}") from None
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision and each process
        try:
            fabric = Fabric(
                accelerator=self.accelerator, strategy=self.strategy, devices=self.devices, precision=self.precision
            )  # fmt: skip
        except (MisconfigurationException, RuntimeError) as error:
            raise UsageError(f"{self.devices} x {self.accelerator} cannot be had here: {error}") from error
        fabric.launch()
        return fabric
