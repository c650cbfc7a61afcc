"""`python -m pipelines.cli`: the command `lockstep`."""

from pipelines.cli.main import run

run()
