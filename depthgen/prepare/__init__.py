"""From original pictures to what composite takes: `mask` for cut-outs, `crop` for backgrounds.

The one rule: `W/sources` is only read here; a picture keeps its number.
"""
