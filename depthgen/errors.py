"""The root of all errors that are phrased for a person.

The one rule: what derives from `DepthgenError` carries one sentence that says what is wrong, where,
and what to do next; the command line prints it as it is. Everything else is a bug.
"""


class DepthgenError(Exception):
    """Something the data, the disk or the options do not allow."""


class OptionsError(DepthgenError):
    """Options that make no sense, alone or together; the command line is wrong, not the data."""


class StageError(DepthgenError):
    """A stage that cannot start or go on."""
