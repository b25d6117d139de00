"""An alternative to our decoders: orjson's dictionaries, every amount in them a Decimal.

Knows where the amounts are from `plain`. orjson reads a JSON number into a float: its digits may be lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from benchmarks.plain import AMOUNT_FIELDS, decoder, sends_numbers
from benchmarks.samples import Sample


def decimals(sample: Sample) -> Callable[[bytes], dict[str, Any]]:
    """bytes to dictionaries, by orjson; a float becomes the Decimal of its shortest text."""
    return decoder(orjson.loads, AMOUNT_FIELDS[sample.form], str if sends_numbers(sample) else None)
