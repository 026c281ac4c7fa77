"""The fault suite: real processes are killed, frozen and starved, and the outcome of every image
is checked. ``make chaos``; the table goes into ``docs/reliability.md``."""
