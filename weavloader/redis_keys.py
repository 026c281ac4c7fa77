"""Names of everything kept in Redis, and of the queues.

Users hold on to these (``redis-cli LLEN image_processing``, ``GET dlq:<task-id>``), so they
are written once, here. All that is not a queue or a dead letter begins with ``weavloader:``.
"""

IMAGE_QUEUE = "image_processing"
STREAM_QUEUE = "data_monitoring"
CLEANUP_QUEUE = "cleanup"
QUEUES = (IMAGE_QUEUE, STREAM_QUEUE, CLEANUP_QUEUE)

# Images of the past, and dead ones tried again, wait in a lane of their own, which workers take
# from only while the queue itself is empty. Its key is kombu's: queue, separator, priority.
LOW_PRIORITY = 9
IMAGE_QUEUE_LOW = f"{IMAGE_QUEUE}\x06\x16{LOW_PRIORITY}"
LOW_LANE = f"{IMAGE_QUEUE}_low"
"""What pages and metrics call that lane."""
LANES = {**{queue: queue for queue in QUEUES}, LOW_LANE: IMAGE_QUEUE_LOW}
"""Keys of the lists in which tasks wait, by the name that is shown of each."""
DELAYED = "weavloader:delayed"
"""Sorted set of the messages that are due later, by the Unix time at which they are."""
DELAYED_LANE = f"{IMAGE_QUEUE}_delayed"
"""What pages and metrics call it."""

STREAM_LOCK = "weavloader:stream:lock"
STREAM_CURSOR = "weavloader:stream:cursor"
STREAM_LAST_POLL = "weavloader:stream:last"
STREAM_NEWEST = "weavloader:stream:newest"
STREAM_NEWEST_MEMBER = "captured"
STREAM_RECONCILED = "weavloader:stream:reconciled"
SEEN = "weavloader:stream:seen"

LATE_UPLOADS = "weavloader:late"
"""Sorted set of the images whose file storage does not have yet, by when it was last asked for."""
LATE_FILES = "weavloader:late:files"
"""Hash of what is known of each of them, JSON, by the image's id."""
LATE_ROUND = "weavloader:late:round"
"""Key that exists for some seconds after a round began that asks for them."""
LATE_NEXT_ROUND = "weavloader:late:next"
"""Key that exists while the next round is on its way."""

DELETED = "weavloader:deleted"
"""Sorted set of the images that a person deleted, 16 bytes each, by the Unix time of it."""

WORKERS = "weavloader:workers"
"""Hash of every living worker's count of beats, by its id."""
WORKER_STARTS = "weavloader:starts"
"""Sorted set of the ids of workers, living and ended, by the Unix time at which each started."""

BEAT_PREFIX = "weavloader:beat:"
BEAT_LOCK = "weavloader:beat:lock"
ACTIVE_SCHEDULER = "weavloader:scheduler"
"""The name of the scheduler that holds this lock."""
# Where messages lie that a consumer other than our workers has taken: kombu's own names.
UNACKED = "unacked"
UNACKED_INDEX = "unacked_index"

AUDIT_LAST = "weavloader:audit:last"

SAVED = "weavloader:saved"
"""Hash of the saved searches, JSON, by name."""
SAVED_VERSION = "weavloader:saved:version"
"""Counter of changes to them, by which workers notice one."""
SAVED_UNSCORED = "weavloader:saved:unscored"
"""Sorted set of the images that a worker could not compare with a saved search, by when."""
SAVED_ROUND = "weavloader:saved:round"
"""Key that exists while deliveries are sent."""
SAVED_LAST = "weavloader:saved:last"
"""What the last round of deliveries left: JSON."""

# A header of every task message: when it was put on its queue, Unix seconds.
QUEUED_AT = "queued_at"

DEAD_LETTER_PREFIX = "dlq:"
DEAD_LETTER_INDEX = "weavloader:dlq:index"
DEAD_LETTER_LABELS = "weavloader:dlq:labels"
DEAD_LETTER_REASONS = "weavloader:dlq:reasons"
DEAD_LETTER_NODES = "weavloader:dlq:nodes"
DEAD_LETTER_IMAGES = "weavloader:dlq:images"
"""Sorted set of ``<image id> <dead letter's id>``, for dead letters under another id than their
image's."""
DEAD_LETTER_IMAGE_OF = "weavloader:dlq:image-of"
"""Hash of the image's id, by the id of such a dead letter."""
DEAD_LETTERS_REPROCESSED = "weavloader:dlq:retried"
DEAD_LETTERS_RESOLVED = "weavloader:dlq:settled"
DEAD_LETTERS_DISCARDED = "weavloader:dlq:dropped"


def dead_letter(task_id: str) -> str:
    """Key of one dead letter: a JSON string, readable with ``redis-cli GET``."""
    return f"{DEAD_LETTER_PREFIX}{task_id}"


def reprocessing(name: str) -> str:
    """Progress of a run that reprocesses stored images."""
    return f"weavloader:reprocessing:{name}"


def backfill(name: str) -> str:
    """Key of the moment up to which a past span was taken."""
    return f"weavloader:backfill:{name}"


def saved_recent(name: str) -> str:
    """Sorted set of the images that matched a saved search of late, by when."""
    return f"weavloader:saved:recent:{name}"


def saved_waiting(name: str) -> str:
    """Sorted set of its matches that wait for a delivery, by when they are due."""
    return f"weavloader:saved:waiting:{name}"


def saved_matches(name: str) -> str:
    """Hash of what is known of each of these, JSON, by the image's id."""
    return f"weavloader:saved:matches:{name}"


def saved_delivery(name: str) -> str:
    """The delivery of it that is under way: JSON, with the body that is sent."""
    return f"weavloader:saved:delivery:{name}"


def saved_state(name: str) -> str:
    """Hash of its counts, and of how the last delivery ended."""
    return f"weavloader:saved:state:{name}"


def saved_keys(name: str) -> tuple[str, ...]:
    """All keys of one saved search."""
    kinds = (saved_recent, saved_waiting, saved_matches, saved_delivery, saved_state)
    return tuple(kind(name) for kind in kinds)


MANIFESTS = "weavloader:manifests"
"""Key under which the VSN of every node is cached, by the node's id."""


def manifest(vsn: str) -> str:
    """Key under which a node's manifest is cached."""
    return f"weavloader:manifest:{vsn}"


def position(vsn: str) -> str:
    """Key under which a node's live position is cached."""
    return f"weavloader:position:{vsn}"


def forbidden(node: str) -> str:
    """Key that exists while the images of a node are not asked for, since storage refused them."""
    return f"weavloader:forbidden:{node}"


def failures(task_id: str) -> str:
    """Key of the hash that remembers a task's failures: ``first_seen``, ``attempts``."""
    return f"weavloader:failures:{task_id}"


def deliveries(task_id: str, retry: int) -> str:
    """Key that counts how often one try of a task was started."""
    return f"weavloader:deliveries:{task_id}:{retry}"


def receipts(tag: str) -> str:
    """Key that counts how often a message was received without a sign of life after it."""
    return f"weavloader:receipts:{tag}"


CIRCUIT_TRIAL = "weavloader:circuit:trial"
"""Lock of the one image that tries whether a circuit can close."""


def circuit(stage: str) -> str:
    """Key of the open circuit of a stage: JSON; there is none while it is closed."""
    return f"weavloader:circuit:{stage}"


def circuit_row(stage: str) -> str:
    """Key of the set of images that failed at a stage since the last that did not."""
    return f"weavloader:circuit:{stage}:row"


def circuit_failed(stage: str, span: int) -> str:
    """Key of the images that failed at a stage in a span of time: a HyperLogLog of their ids."""
    return f"weavloader:circuit:{stage}:failed:{span}"


def circuit_passed(stage: str, span: int) -> str:
    """Key of the number of images that passed it in that span."""
    return f"weavloader:circuit:{stage}:passed:{span}"


def unacked(worker_id: str) -> str:
    """Key of the hash of messages that a worker has taken and not yet acknowledged."""
    return f"weavloader:unacked:{worker_id}"


def unacked_index(worker_id: str) -> str:
    """Key of the sorted set of when it took each."""
    return f"weavloader:unacked-index:{worker_id}"


def unacked_mutex(worker_id: str) -> str:
    """Key that one process at a time holds while it restores them."""
    return f"weavloader:unacked-mutex:{worker_id}"


def inference(image_id: str) -> str:
    """Key of what the models said of an image that could not be stored yet."""
    return f"weavloader:inference:{image_id}"
