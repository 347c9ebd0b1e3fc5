"""The training loop, written once, and the devices that it runs on.

Rule: `BaseTrainer` knows what a step means, a subclass knows where it runs.
"""

from vathos.trainer.base_trainer import BaseTrainer, Progress
from vathos.trainer.gpu_trainer import GPUTrainer
from vathos.trainer.processes import Processes, joined
from vathos.trainer.tpu_trainer import TPUTrainer

__all__ = ["BaseTrainer", "GPUTrainer", "Processes", "Progress", "TPUTrainer", "joined"]
