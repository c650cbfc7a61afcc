"""Looking at sources, and making what was heard or found durable in `change_events`; nothing else is written."""
