"""A code location for tests of how runs are started: one job that ends at once, and one that waits to be stopped."""

import os
import signal
import sys
from pathlib import Path

import dagster as dg


@dg.op
def tell(context: dg.OpExecutionContext) -> None:
    sys.stdout.write("told on standard output\n")
    sys.stdout.flush()
    seen = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "LOCKSTEP_TEST_WORD")}
    Path(os.environ["LOCKSTEP_TEST_FOLDER"], context.run.run_id).write_text(f"{os.getpid()} {seen}")


@dg.op
def wait(context: dg.OpExecutionContext) -> None:
    Path(os.environ["LOCKSTEP_TEST_FOLDER"], context.run.run_id).write_text(str(os.getpid()))
    while True:
        signal.pause()


@dg.job(executor_def=dg.in_process_executor)
def quick() -> None:
    tell()


@dg.job(executor_def=dg.in_process_executor)
def endless() -> None:
    wait()


defs = dg.Definitions(jobs=[quick, endless])
