"""Some examples in a process of their own: `python -m tests.integration._truth_run EXAMPLES SEED FOLDER [--plant BUG]`.

The last line of the output is a JSON object with what ran. The exit status is 1 when an example failed; what it did,
made as short as it gets, is told then.
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

STEPS = 10  # moves an example; several of them are whole updates, and each example ends with coming to rest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plant", help="a bug to put into the library; see _truth_bugs")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(options.folder / "hypothesis")}

    import pyarrow as pa
    from hypothesis import HealthCheck, Phase, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.integration._truth_bugs import planted
    from tests.integration._truth_machine import Tally, machine
    from tests.integration._truth_world import bench_in
    from tests.tiny_model import write_tiny_model

    pa.set_cpu_count(1)
    tally, failure = Tally(), ""
    started = time.perf_counter(), time.process_time()
    phases = [Phase.generate] if options.plant else [Phase.generate, Phase.shrink]
    chosen = settings(
        max_examples=options.examples,
        stateful_step_count=options.steps,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as scratch,
        bench_in(Path(scratch), write_tiny_model(Path(scratch) / "model")) as (bench, trap),
        planted(options.plant) if options.plant else contextlib.nullcontext(),
    ):
        try:
            run_state_machine_as_test(seed(options.seed)(machine(bench, trap, tally)), settings=chosen)
        except Exception:  # noqa: BLE001 - whatever it was, the test must see it
            failure = traceback.format_exc()
    seconds, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
    told = {**vars(tally), "seed": options.seed, "seconds": seconds, "cpu_seconds": cpu, "failure": failure}
    sys.stdout.write("\n" + json.dumps(told) + "\n")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
