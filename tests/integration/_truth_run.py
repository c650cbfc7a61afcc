"""Some examples in a process of their own: `python -m tests.integration._truth_run EXAMPLES SEED FOLDER [--lite]`.

With `--plant BUG`, once or more often, bugs are planted one after the other, and looked for by examples.

Each line of the output that is a JSON object tells what ran: one for the examples, or one for each bug. The exit status
is 1 when an example failed; what it did, made as short as it gets, is told then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

STEPS = 10  # moves an example; several of them are whole updates, and each example ends with coming to rest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plant", action="append", default=[], help="a bug to put into the library; see _truth_bugs")
    parser.add_argument("--lite", action="store_true", help="on a real Milvus Lite process, one for all examples")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(options.folder / "hypothesis")}

    import pyarrow as pa

    from tests.integration._truth_bench import bench_in
    from tests.tiny_model import write_tiny_model

    pa.set_cpu_count(1)
    failed = False
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as scratch,
        bench_in(Path(scratch), write_tiny_model(Path(scratch) / "model"), lite=options.lite) as (bench, trap),
    ):
        for bug in options.plant or [None]:
            failed |= _play(bench, trap, bug, options)
    return int(failed)


def _play(bench: Any, trap: Any, bug: str | None, options: argparse.Namespace) -> bool:
    """Examples until one fails; whether one did."""
    from hypothesis import HealthCheck, Phase, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.integration._truth_bugs import planted
    from tests.integration._truth_machine import Tally, machine

    tally, failure = Tally(), ""
    started = time.perf_counter(), time.process_time()
    chosen = settings(
        max_examples=options.examples,
        stateful_step_count=options.steps,
        deadline=None,
        database=None,
        phases=[Phase.generate] if bug or options.lite else [Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    with planted(bug) if bug else contextlib.nullcontext():
        try:
            run_state_machine_as_test(seed(options.seed)(machine(bench, trap, tally)), settings=chosen)
        except Exception:  # noqa: BLE001 - whatever it was, the test must see it
            failure = traceback.format_exc()
    seconds, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    told = {**vars(tally), "seed": options.seed, "seconds": seconds, "cpu_seconds": cpu, "failure": failure}
    sys.stdout.write("\n" + json.dumps(told | {"bug": bug}) + "\n")
    return bool(failure)


if __name__ == "__main__":
    sys.exit(main())
