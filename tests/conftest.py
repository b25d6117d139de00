"""The suite is deterministic: hypothesis tries the same examples each time. HYPOTHESIS_PROFILE=explore: new ones."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from hypothesis import settings

_recursion = sys.getrecursionlimit()
import_module("eth_account")  # a library below it lifts the limit; here, before any test imports it

sys.setrecursionlimit(_recursion)

settings.register_profile("house", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))
