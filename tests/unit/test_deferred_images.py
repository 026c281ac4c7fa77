"""What the task of an image raises while the file is not there yet."""

from __future__ import annotations

import pickle

from job_system.tasks.processor import _Deferred


def test_it_reaches_the_main_process_of_the_worker_whole() -> None:
    copy = pickle.loads(pickle.dumps(_Deferred(2.5, "not there yet")))
    assert (copy.pause, copy.why) == (2.5, "not there yet")
