"""Learn mask and depth of a composite from the archives that `depthgen` writes.

This package reads the archive and trains on it. It keeps one rule: importing it costs nothing, so
torch is only loaded by the subpackage that needs it (`vathos.model`, `vathos.trainer`, ...).
"""
