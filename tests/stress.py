"""How much of the longest tests runs: a fixed share in `make test` and CI, the whole of it by `make stress`."""

from __future__ import annotations

import os

STRESS = os.environ.get("LOCKSTEP_STRESS") == "1"
