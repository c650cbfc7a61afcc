"""One update, room by room: looking, applying, deriving, snapshot; and what is told and kept of it."""
