"""Train from the command line: `python -m vathos.train config.yaml [training.epochs=3 ...]`.

This is the module that torchrun starts; for people there is `depthgen train`. Where the file names
no archives they are those of the workspace, `data` or $DEPTHGEN_WORKSPACE. The one rule: it only
parses, calls `Runner` and logs; exit codes are 0 done, 1 refused, 2 usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from depthgen.archive import ArchiveError
from depthgen.images import ImageError
from vathos.errors import UsageError, VathosError
from vathos.runner import Runner
from vathos.trainer import joined
from vathos.utils import setup_logger
from vathos.utils.config import read_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vathos.trainer import Progress

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vathos.train", description="Train a network.")
    parser.add_argument("config", help="configuration file (YAML)")
    parser.add_argument("override", nargs="*", help="such as training.epochs=3")
    parser.add_argument(
        "--fresh", action="store_true", help="throw away what the run of this name has so far"
    )
    parsed = parser.parse_intermixed_args(arguments)  # --fresh may stand between overrides
    log = setup_logger("vathos")

    def tell(progress: Progress) -> None:
        numbers = " ".join(f"{key} {value:.4f}" for key, value in progress.metrics.items())
        log.info(
            "%s epoch %d/%d step %d/%d: %s, %.1f samples/s",
            *(progress.phase, progress.epoch + 1, progress.epochs, progress.step, progress.steps),
            *(numbers, progress.samples_per_second),
        )

    try:
        with joined() as processes:
            if not processes.writes:
                log.setLevel(logging.WARNING)
            # The workspace that `depthgen` would take.
            root = Path(os.environ.get("DEPTHGEN_WORKSPACE") or "data")
            config = read_config(parsed.config, parsed.override, default_root=root)
            Runner(config, on_progress=tell, fresh=parsed.fresh).start_train()
    except (VathosError, ArchiveError, ImageError) as error:
        log.error("%s", error)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        log.info("stopped and saved; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
