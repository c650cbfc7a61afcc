"""The two jobs that bring the index to the sources' state: by difference, and from nothing."""

from __future__ import annotations

import dagster as dg

# The whole live index read back belongs to the night and to its own job, not to every small update.
_VERIFICATION = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("live_index"), "matches_tables"))
# Planning changes nothing; it has its own job.
_UPDATE = dg.AssetSelection.all() - dg.AssetSelection.assets("update_plan")

incremental_update = dg.define_asset_job(
    "incremental_update",
    selection=_UPDATE - _VERIFICATION,
    description=(
        "Detect what changed in the sources, derive what is missing, write the difference to the idle slot, check it, "
        "and move the alias. With nothing changed it encodes nothing and writes nothing."
    ),
)

nightly_rebuild = dg.define_asset_job(
    "nightly_rebuild",
    selection=_UPDATE,
    config=dg.RunConfig(resources={"writer": {"config": {"full": True}}}),
    description=(
        "The same, with every document read and compared by its content, and with the idle slot built from nothing, "
        "without trust in the change feed: every row is checked, "
        "the digest must equal the incremental one, and the live index is read back. No text is encoded again."
    ),
)
