"""What starts by itself, by the clock.

The sensors follow the sources by themselves; what goes by the clock is off until an operator switches it on in the UI.
The instance remembers the switch, across restarts and new versions of the code.
"""

from __future__ import annotations

import dagster as dg

from jobs.maintenance import maintenance
from jobs.updates import incremental_update, nightly_rebuild

nightly = dg.ScheduleDefinition(
    name="nightly_rebuild_at_two",
    job=nightly_rebuild,
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Rebuild from nothing at 02:00 UTC, check every row, and read the live index back.",
)

every_quarter_hour = dg.ScheduleDefinition(
    name="incremental_update_every_15_minutes",
    job=incremental_update,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Bring the index to the sources' state every 15 minutes; a run with nothing to do writes nothing.",
)

weekly = dg.ScheduleDefinition(
    name="maintenance_on_sundays",
    job=maintenance,
    cron_schedule="0 4 * * 0",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Remove what no kept snapshot needs, compact the tables and vacuum them, on Sundays at 04:00 UTC.",
)
