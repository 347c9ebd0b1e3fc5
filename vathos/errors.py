"""What can be wrong, as types: the configuration, the data, a checkpoint, the training itself.

The one rule: the message is one sentence for the person at the keyboard, saying what is wrong,
where, and what to do next; it is printed as it stands.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "TrainingError",
    "UsageError",
    "VathosError",
]


class VathosError(Exception):
    """Any error of this package that a person can act upon."""


class ConfigError(VathosError):
    """A configuration that cannot be used: an unknown key, a wrong type, a name not there."""


class UsageError(ConfigError):
    """An override that cannot be used: what was typed is wrong, not a file (exit code 2)."""


class DataError(VathosError):
    """Archives that do not fit together, or a set too small for what is asked of it."""


class CheckpointError(VathosError):
    """A checkpoint that cannot be read, or that belongs to another run or model."""


class TrainingError(VathosError):
    """Training that cannot go on, such as a loss that is not a number."""
