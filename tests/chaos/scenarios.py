"""The faults that the suite goes through, and when the outcomes of one pass."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demo.sage_replay.faults import DATA, STORAGE
from tests.chaos import attacks, bad_images, faults, redis_faults, store_faults
from tests.chaos.dataset import Published, images
from tests.chaos.outcome_checker import Outcomes
from tests.chaos.system import PROCESSORS, FaultAction
from tests.chaos.waits import LONG
from weavloader import redis_keys

Images = Callable[[str, str, int], Sequence[Published]]


def _good(amount: int) -> Images:
    return lambda host, name, seed: images(host, name, amount, seed)


SIXTY = _good(60)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault.

    Attributes:
        bring_about: Brings the fault about, and ends it; called when the images begin to appear.
        images: What is published: by host, name and seed.
        seconds: Over how long the images appear.
        is_quick: It is part of the short form.
        patience: Seconds after the fault, or the last outcome, until an image has one.
        max_calls: The most answers of each model that an image may need.
        foreign_messages: How many dead letters come from foreign messages.
        arrives_after: Seconds until storage has the files.
        needs_root: Only root can bring it about.
        on_weaviate: The store is a real Weaviate; it is skipped where there is none.
    """

    name: str
    bring_about: FaultAction
    images: Images = SIXTY
    seconds: float = 4.0
    is_quick: bool = False
    patience: float = 120.0
    max_calls: float = 1.5
    foreign_messages: int = 0
    arrives_after: float = 0.0
    needs_root: bool = False
    on_weaviate: bool = False

    def violations(self, outcomes: Outcomes) -> list[str]:
        """What was lost, doubled, of a wrong outcome or done twice; empty on success."""
        found = {
            "missing": outcomes.missing,
            "doubled": outcomes.doubled,
            "wrong_outcome": len(outcomes.wrong_outcome),
            "other_dead_letters": outcomes.dead_letters != self.foreign_messages,
            "model_calls_per_image": outcomes.calls_per_image > self.max_calls,
        }
        return [name for name, is_wrong in found.items() if is_wrong]


SCENARIOS = (
    Scenario("no fault", faults.nothing, is_quick=True),
    Scenario("kill -9 of children, three times", faults.kill_children, is_quick=True),
    Scenario("kill -9 of a processor", faults.kill("processor"), is_quick=True),
    Scenario("kill -9 of all processors at once", faults.kill(*PROCESSORS)),
    Scenario("kill -9 of all processors at work, twice", faults.kill_at_work, _good(400)),
    Scenario(
        "kill -9 of all processors, ten times in 40 s",
        faults.kill_again_and_again(10, 4),
        _good(400),
    ),
    Scenario("SIGTERM of all processors", faults.kill(*PROCESSORS, number=signal.SIGTERM)),
    Scenario(
        "kill -9 of the moderator in mid-poll, twice",
        faults.kill_in_mid_poll,
        seconds=40.0,
        is_quick=True,
    ),
    Scenario("kill -9 of the scheduler", faults.kill("scheduler")),
    Scenario("every image published twice", faults.forget_what_was_taken),
    Scenario("Redis restarted", redis_faults.end_redis(signal.SIGTERM, 0)),
    Scenario("Redis killed", redis_faults.end_redis(signal.SIGKILL, 0), is_quick=True),
    Scenario("Redis gone for 20 s", redis_faults.end_redis(signal.SIGKILL, 20)),
    Scenario("Redis frozen for 20 s", redis_faults.freeze_redis),
    Scenario("Redis full for 10 s", redis_faults.fill_redis),
    Scenario("Redis's disk full for 10 s", redis_faults.fill_redis_disk),
    Scenario("Redis busy with a script for 10 s", redis_faults.keep_redis_busy),
    Scenario("Redis fails over, connections stay open", redis_faults.fail_over_redis),
    Scenario("a firewall drops connections to Redis", redis_faults.drop_redis_connections),
    Scenario("every role is ended without Redis", faults.end_all_without_redis, seconds=10.0),
    Scenario(
        "every role is ended, Triton is frozen", faults.end_all_with_frozen_triton, seconds=10.0
    ),
    Scenario("Triton down for 60 s", faults.stop_triton(60)),
    Scenario("Triton down for 5 s", faults.stop_triton(5), is_quick=True),
    Scenario("kill -9 of a model's process", faults.kill_a_models_process),
    Scenario("every second inference fails for 45 s", faults.let_models("half", LONG)),
    Scenario("a Triton is added", faults.add_a_triton, seconds=40.0),
    Scenario("no name resolves, twice for 25 s", faults.lose_names, seconds=60.0),
    Scenario(
        "new processes while Triton, then the store is down",
        faults.recycle_in_outages,
        seconds=40.0,
    ),
    Scenario("models slow", faults.let_models("slow")),
    Scenario("models fail", faults.let_models("error")),
    Scenario("models return errors as answers", faults.let_models("error_text"), is_quick=True),
    Scenario("models return empty answers", faults.let_models("blank")),
    Scenario("models return NaN", faults.let_models("nan")),
    Scenario("store down for 60 s", store_faults.take_store_away(60), max_calls=1.0),
    Scenario(
        "store down for 10 s while models answer",
        store_faults.take_store_away_from_thinkers,
        is_quick=True,
        max_calls=1.0,
    ),
    Scenario("processors start without the store", store_faults.start_without_store),
    Scenario("store refuses every second image for 6 s", store_faults.refuse_half, max_calls=1.0),
    Scenario("store locked for 8 s", store_faults.lock_store(8)),
    Scenario("store read-only for 45 s", store_faults.lock_store(LONG), max_calls=1.0),
    Scenario(
        "kill -9 of Weaviate, twice", store_faults.kill_weaviate, seconds=20.0, on_weaviate=True
    ),
    Scenario(
        "disk of Weaviate full for 45 s",
        store_faults.fill_disk_of_weaviate,
        seconds=30.0,
        on_weaviate=True,
    ),
    Scenario("SAGE answers 500", faults.disturb("status", DATA, 3, status=500)),
    Scenario("SAGE answers 401", faults.disturb("status", DATA, 3, status=401)),
    Scenario("SAGE sends garbage", faults.disturb("garbage_line", DATA, 3)),
    Scenario("SAGE sends half a line", faults.disturb("half_line", DATA, 3), is_quick=True),
    Scenario("SAGE stalls for 10 s", faults.disturb("stall", DATA, 2, seconds=10)),
    Scenario("storage answers 500", faults.disturb("status", STORAGE, 20, status=500)),
    Scenario("storage answers 401", faults.disturb("status", STORAGE, 20, status=401)),
    Scenario("storage answers 500 for 45 s", faults.refuse_downloads(500)),
    Scenario("storage answers 401 for 45 s", faults.refuse_downloads(401)),
    Scenario(
        "files come after their records",
        faults.disturb("status", STORAGE, 60, status=404),
        is_quick=True,
    ),
    Scenario(
        "files come 75 s after their records",
        faults.wait_for_late_files,
        patience=60.0,
        arrives_after=75.0,
    ),
    Scenario("storage answers 403 for a node", faults.forbid_a_node, bad_images.forbidden),
    Scenario("SAGE's answers end early", faults.disturb("short_answer", DATA, 3)),
    Scenario(
        "SAGE's answer to a backfill ends early",
        faults.end_answers_early,
        bad_images.late(8 * 86_400),
        patience=30.0,
    ),
    Scenario("images are due later", faults.delay_images, seconds=600.0),
    Scenario("storage sends half a file", faults.disturb("half_line", STORAGE, 20)),
    Scenario("storage stalls for 10 s", faults.disturb("stall", STORAGE, 5, seconds=10)),
    Scenario("storage sends a byte a second", faults.disturb("drip", STORAGE, 6, seconds=1)),
    Scenario("SAGE sends a byte a second", faults.disturb("drip", DATA, 2, seconds=1)),
    Scenario("a clock jumps a day ahead and back", faults.jump_clock),
    Scenario("the clocks of hosts are days apart", faults.set_clocks_apart, seconds=20.0),
    Scenario(
        "images uploaded hours late", faults.run_task("health_check"), bad_images.late(10_800)
    ),
    Scenario(
        "images uploaded three days late",
        faults.run_task("audit_images"),
        bad_images.late(3 * 86_400),
    ),
    Scenario("images broken in every way", faults.nothing, bad_images.broken, is_quick=True),
    Scenario("an image that kills its process", faults.nothing, bad_images.poison, is_quick=True),
    Scenario(
        "images that hang",
        faults.hurry,
        bad_images.hanging,
        seconds=20.0,
        patience=30.0,
    ),
    Scenario(
        "foreign messages on the queue",
        faults.foreign_messages,
        is_quick=True,
        foreign_messages=len(bad_images.FOREIGN_MESSAGES),
    ),
    Scenario(
        "messages that end their worker",
        faults.hostile_messages,
        is_quick=True,
        foreign_messages=len(redis_keys.QUEUES),
    ),
    Scenario(
        "a message ends its worker each time",
        attacks.fatal_message,
        bad_images.fatal,
        seconds=45.0,
    ),
    Scenario("small images exhaust memory", attacks.exhaust_memory, bad_images.exhausting),
    Scenario("SAGE's answers exhaust memory", attacks.answer_without_end, seconds=30.0),
    Scenario("1,100 half-open connections", attacks.half_open_connections),
    Scenario("no space for metrics", faults.fill_metrics_folder, needs_root=True),
    Scenario(
        "10,000 images, two workers killed every 10 s",
        faults.kill_again_and_again(30, 10),
        _good(10_000),
        seconds=1.0,
        patience=1800.0,
    ),
)
