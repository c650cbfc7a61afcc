"""The job that shows what an update would do, before one runs."""

import dagster as dg

plan = dg.define_asset_job(
    "plan",
    selection=dg.AssetSelection.assets("update_plan"),
    description=(
        "What an update would add, change, delete, encode and cost, as metadata of `update_plan`. Changes nothing, and "
        "may run beside an update."
    ),
)
