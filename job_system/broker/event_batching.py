"""The part of a worker that sends task events, for Flower, in batches."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

# As soon as a person watching Flower can tell.
SECONDS_BETWEEN = 0.5


class EventBatching(bootsteps.StartStopStep):
    """Sends the events of half a second at once.

    Celery sends each in the next turn of its loop: half of what a busy worker's main process
    did, and a message each for Flower to read.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Start, after each new connection to the broker."""
        events = consumer.event_dispatcher
        # A pool without the event loop sends each event by itself.
        if events is not None and events.on_send_buffered:
            events.on_send_buffered = None
            self._timer = consumer.timer.call_repeatedly(SECONDS_BETWEEN, events.flush)

    def stop(self, consumer: Any) -> None:
        """Send what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            consumer.event_dispatcher.flush()
