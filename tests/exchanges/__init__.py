"""Five little exchanges for tests: real servers, written from what the venues say of themselves, not from our code."""

from __future__ import annotations

from tests.exchanges.bitopro import BitoPro
from tests.exchanges.cascade import Cascade
from tests.exchanges.deltadefi import DeltaDefi
from tests.exchanges.exchange import Exchange, Hold
from tests.exchanges.kraken_prime import KrakenPrime
from tests.exchanges.pacifica import Pacifica
from tests.exchanges.served import Answer, Asked, Served

__all__ = [
    "Answer",
    "Asked",
    "BitoPro",
    "Cascade",
    "DeltaDefi",
    "Exchange",
    "Hold",
    "KrakenPrime",
    "Pacifica",
    "Served",
]
