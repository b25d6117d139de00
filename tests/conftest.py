"""The suite is deterministic: hypothesis tries the same examples each time. HYPOTHESIS_PROFILE=explore: new ones."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("house", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))
