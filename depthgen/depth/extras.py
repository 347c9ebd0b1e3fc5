"""Libraries that only some networks need.

The one rule: a library of an extra is imported when a network asks for it, and its absence is one
sentence with the command that installs it.
"""

from __future__ import annotations

from importlib.util import find_spec

from depthgen.depth.estimator import EstimatorError

_LONGEST_REASON = 200


def require(network: str, extra: str, *libraries: str) -> None:
    """Raise `EstimatorError` if a library that `network` runs on is not installed.

    network: what asks, for the sentence. extra: the extra of this project that brings `libraries`,
    given by the names they are imported under.
    """
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        raise EstimatorError(
            f"{network} needs {' and '.join(missing)}, not installed here; type "
            f"`pip install 'depthgen-vathos[{extra}]'`"
        )


def first_line(error: Exception) -> str:
    """What an error of such a library says, without the pages that may follow."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:_LONGEST_REASON]
