"""Loggers by name, for programs that have none of their own.

The one rule: findings go through `logging`, so that whoever calls decides where they are shown;
the root logger is never touched.
"""

from __future__ import annotations

import logging

__all__ = ["setup_logger"]


def setup_logger(name: str) -> logging.Logger:
    """The logger `name`, writing INFO and above to standard error; safe to call again."""
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    return logger
