"""The Lockstep library: everything that is not orchestration. Only `definitions` and `cli` know Dagster."""
