"""The fault suite: real processes are killed, frozen and starved, and every image is accounted
for. ``make chaos``; the table goes into ``docs/reliability.md``."""
