"""Names of everything kept in Redis, and of the queues.

Users hold on to these (``redis-cli LLEN image_processing``, ``GET dlq:<task-id>``), so they
are written once, here. All that is not a queue or a dead letter begins with ``weavloader:``.
"""

IMAGE_QUEUE = "image_processing"
STREAM_QUEUE = "data_monitoring"
CLEANUP_QUEUE = "cleanup"
QUEUES = (IMAGE_QUEUE, STREAM_QUEUE, CLEANUP_QUEUE)

STREAM_LOCK = "weavloader:stream:lock"
STREAM_CURSOR = "weavloader:stream:cursor"
STREAM_LAST_TICK = "weavloader:stream:last"
SEEN = "weavloader:stream:seen"

DEAD_LETTER_PREFIX = "dlq:"
DEAD_LETTER_INDEX = "weavloader:dlq:index"


def dead_letter(task_id: str) -> str:
    """Key of one dead letter: a JSON string, readable with ``redis-cli GET``."""
    return f"{DEAD_LETTER_PREFIX}{task_id}"


def manifest(vsn: str) -> str:
    """Key under which a node's manifest is cached."""
    return f"weavloader:manifest:{vsn}"


def position(vsn: str) -> str:
    """Key under which a node's live position is cached."""
    return f"weavloader:position:{vsn}"


def failures(task_id: str) -> str:
    """Key of the hash that remembers a task's failures: ``first_seen``, ``attempts``."""
    return f"weavloader:failures:{task_id}"


def deliveries(task_id: str, retry: int) -> str:
    """Key that counts how often one try of a task was started."""
    return f"weavloader:deliveries:{task_id}:{retry}"
