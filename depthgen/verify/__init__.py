"""Checking a workspace: every checksum, every count, every pairing, every picture.

The one rule: verify only reads, and what it finds is its result, never an exception.
"""

from depthgen.verify.report import Finding, VerifyReport
from depthgen.verify.run import VerifyOptions, run

__all__ = ["Finding", "VerifyOptions", "VerifyReport", "run"]
