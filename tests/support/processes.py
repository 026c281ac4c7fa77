"""The same work in several processes at once."""

from __future__ import annotations

import multiprocessing


def in_processes(count: int, work: object, *arguments: object) -> None:
    """Run the same work in several new processes at once, and see each of them succeed."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, not by each: ten imports of Weaviate's client take a minute.
    context.set_forkserver_preload(
        ["tests.support.store_contract", "weavloader.store.weaviate.store"]
    )
    processes = [
        context.Process(target=work, args=arguments)  # type: ignore[arg-type]
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
