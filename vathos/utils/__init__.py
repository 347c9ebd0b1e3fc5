"""Configuration, construction by name, devices and loggers: what every run needs.

Rule: nothing here knows about the data or the training loop.
"""

from vathos.utils.allocator import give_back, keep_freed
from vathos.utils.config import load_config
from vathos.utils.device import setup_device
from vathos.utils.instances import get_instance, get_instance_v2
from vathos.utils.logger import setup_logger
from vathos.utils.parameters import setup_param_groups

__all__ = [
    "get_instance",
    "get_instance_v2",
    "give_back",
    "keep_freed",
    "load_config",
    "setup_device",
    "setup_logger",
    "setup_param_groups",
]
