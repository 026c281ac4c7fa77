"""How well a search finds what is relevant: ``make quality``, or this module as a program.

Images go through the real system: a file server stands for SAGE's storage, and a processor takes
them from Redis, decodes them, has Triton caption and embed them, and stores them. Then every query
is asked in every way. docs/search.md says what the figures are, and which formats are read.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import click

from benchmarks.stack import running_store
from commands.cli import run, say
from commands.console import progress_bar
from demo.judged_images import DRAWN_IMAGES, JudgedImages, draw_judged_images, read_judged_images
from demo.search_quality import Figures, markdown, measure, summarise_results, ways
from demo.servers.ports import HOST, free_ports, is_free
from demo.servers.preview_server import running_preview_server
from demo.servers.processes import end_with_parent, stop
from demo.servers.redis import running_redis
from demo.servers.triton import Triton
from weavloader.circuits import open_circuits
from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.images.job import ImageJob, image_id
from weavloader.settings import Settings, get_settings, load_settings, publish_to_environment
from weavloader.store.base import Filters, Store
from weavloader.times import FOREVER

ROOT = Path(__file__).resolve().parents[1]
_CAPTURED_AT = "2026-01-01T00:00:00Z"  # where nobody says when
_PORT = 18_341  # of the images' links, where it is free
_POLL_SECONDS = 0.5
_TELL_SECONDS = 60.0  # between two lines, where nobody watches a bar


@click.command()
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option(
    "--images",
    type=click.IntRange(16),
    default=DRAWN_IMAGES,
    show_default=True,
    help="Images to draw, where no DATA is given.",
)
@click.option("--split", help="Part of the data set, such as test.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the store; what is in it already is not captioned again.",
)
@click.option(
    "--store", type=click.Choice(["embedded", "weaviate"]), default="embedded", show_default=True
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Images that are processed at a time.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=ROOT / "build" / "search-quality.json",
    help="File for the figures as JSON; a table as Markdown is written beside it.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Only summarise this file, query_eval_metrics.csv of imsearch_eval.",
)
def search_quality(
    data: Path | None,
    images: int,
    split: str | None,
    keep: Path | None,
    store: str,
    concurrency: int,
    out: Path,
    results: Path | None,
) -> None:
    """Measure how well searches find the relevant images of DATA.

    DATA is a folder of images with judgements.csv, of INQUIRE, or of a data set of imsearch_eval.
    Without it, images with known answers are drawn. With TRITON_HOST set, that Triton's models
    caption and embed them, else the preview models do.
    """
    if split and data is None:
        raise click.UsageError("--split needs DATA")
    if results is not None:
        for name, value in summarise_results(results).items():
            say(f"{name}: {value:.3f}".removesuffix(".000"))
        return
    if keep and store == "weaviate" and "weaviate_host" not in load_settings().model_fields_set:
        raise click.UsageError("--keep with --store weaviate needs WEAVIATE_HOST")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # as Ctrl-C: the servers end too
    with ExitStack() as block:
        folder = keep or Path(
            block.enter_context(tempfile.TemporaryDirectory(prefix="weavloader-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        judged = _judged_images(data, images, split, folder)
        say(f"{len(judged.files):,} images, {len(judged.relevant):,} queries", err=True)
        with _running(folder, judged, store, keep is not None) as (settings, links):
            figures = _measured(settings, judged, links, concurrency, folder)
    figures = {"data": str(data or "drawn"), "at": time.strftime("%Y-%m-%d %H:%M:%S")} | figures
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")
    table = markdown(figures)
    out.with_suffix(".md").write_text(table)
    say(f"{table}\nWritten to {out} and {out.with_suffix('.md').name}")


def _judged_images(data: Path | None, images: int, split: str | None, folder: Path) -> JudgedImages:
    if data is not None:
        with _told("Reading images", 0) as advance:
            return read_judged_images(data, split, folder / "images", advance)
    with _told("Drawing images", images) as advance:
        draw_judged_images(folder / "drawn", images, advance)
    return read_judged_images(folder / "drawn", None, folder)


@contextmanager
def _running(
    folder: Path, judged: JudgedImages, store: str, keeps: bool
) -> Iterator[tuple[Settings, dict[str, str]]]:
    """The servers, in whose environment a processor starts; gives the link of each image."""
    with ExitStack() as block:
        redis_url = block.enter_context(running_redis(folder))
        port, name = _address(folder)
        links = {image: f"http://{HOST}:{port}/{_digest(image)}" for image in judged.files}
        files = {_digest(image): path for image, path in judged.files.items()}
        block.enter_context(_serving(port, files))
        environment = {
            **block.enter_context(running_store(folder, store, f"WeavloaderQuality_{name}")),
            **block.enter_context(_triton(folder)),
            "CELERY_BROKER_URL": redis_url,
            "CELERY_RESULT_BACKEND": redis_url,
            "SAGE_STORAGE_HOSTS": f"http://{HOST}:{port}",
            "MANIFEST_API": f"http://{HOST}:{port}/manifests/",
            "SAGE_USER": "",
            "SAGE_PASS": "",
            "RETRY_DELAY": "1",
            "KEEP_IMAGES": FOREVER,  # however old the images are
            "KEEP_OBJECTS": FOREVER,
            "PROMETHEUS_MULTIPROC_DIR": block.enter_context(tempfile.TemporaryDirectory()),
        }
        for variable, value in environment.items():
            publish_to_environment(variable, value)
        get_settings.cache_clear()  # what was said so far was masked by the settings before
        try:
            yield get_settings(), links
        finally:
            if not keeps:
                _drop_collection(get_settings())


def _address(folder: Path) -> tuple[int, str]:
    """The port that is part of the links, and what the collection of a Weaviate is called by.

    An image is known by its link, so the port stays with the store. It is the same for every store
    where it can be, since results of equal score are in the order of their ids.
    """
    path = folder / "address.json"
    if not path.exists():
        port = _PORT if is_free(_PORT) else free_ports(1)[0]
        address = {"port": port, "name": secrets.token_hex(4)}
        path.write_text(json.dumps(address))
    kept = json.loads(path.read_text())
    return int(kept["port"]), str(kept["name"])


def _drop_collection(settings: Settings) -> None:
    """Remove the collection that was filled, of a server that stays."""
    if settings.vector_store == "weaviate":
        from weavloader.store.weaviate.client import connect

        with connect(settings) as client:
            client.collections.delete(settings.weaviate_collection)


def _digest(image: str) -> str:
    """What stands for an image in its link, whatever characters its name has."""
    return sha256(image.encode()).hexdigest()[:24]


@contextmanager
def _serving(port: int, files: Mapping[str, Path]) -> Iterator[None]:
    """Serve files by the last part of their path; there are no manifests of nodes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = files.get(self.path.rpartition("/")[2])
            body = path.read_bytes() if path else b""
            self.send_response(HTTPStatus.OK if path else HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        text = f"port {port}, which the links in the kept store name, is taken: {error.strerror}"
        raise ConfigError(text, reason=Reason.BAD_ADDRESS) from error
    with server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _triton(folder: Path) -> Iterator[dict[str, str]]:
    """The Triton that the environment names, or one with the preview models."""
    settings = load_settings()
    if "triton_host" in settings.model_fields_set and settings.triton_host:
        yield {"PREVIEW_MODELS": str(settings.preview_models).lower()}
        return
    log = folder / "triton.log"
    with ExitStack() as block:
        if sys.platform == "linux":
            host = block.enter_context(Triton(log)).url
        else:
            host = block.enter_context(running_preview_server(log))
        port = host.rpartition(":")[2]
        yield {"TRITON_HOST": HOST, "TRITON_PORT": port, "PREVIEW_MODELS": "true"}


def _measured(
    settings: Settings,
    judged: JudgedImages,
    links: Mapping[str, str],
    concurrency: int,
    folder: Path,
) -> dict[str, Any]:
    from client import connect_embedder, open_store

    _require_dependencies(settings)
    names = {image_id(link): image for image, link in links.items()}
    searched = [query for query, relevant in judged.relevant.items() if relevant]
    with closing(open_store(settings)) as store:
        failed = _store_all(store, judged, links, concurrency, folder)
        embed = {name: connect_embedder(settings, name) for name in settings.embedding_models}
        with _told("Searching", len(searched) * len(ways([*embed]))) as advance:
            found = measure(store, judged, names, embed, advance)
        models = store.tally(Filters()).names["caption_model"]
    return {
        "images": len(links) - sum(failed.values()),
        "failed": failed,
        "queries": len(searched),
        "queries_without_relevant_images": len(judged.relevant) - len(searched),
        "relevant": sum(map(len, judged.relevant.values())),
        "caption_models": models,
        "vectors": list(embed),
        "store": settings.vector_store,
        "ways": {way: asdict(Figures.mean([*each.values()])) for way, each in found.items()},
        "by_query": {
            way: {query: asdict(figures) for query, figures in each.items()}
            for way, each in found.items()
        },
    }


def _require_dependencies(settings: Settings) -> None:
    """Check what a processor needs: without it, images would wait for it without an end.

    Raises:
        TransientError: It is named.
    """
    from job_system.checks import dependency_checks, run_checks

    checks = dependency_checks(settings)
    needed = {name: check for name, check in checks.items() if name not in ("sage", "storage")}
    for result in run_checks(needed, settings):
        if not result.ok:
            text = f"{result.name}: {result.detail}"
            raise TransientError(text, reason=Reason.DEMO_FAILED)


def _store_all(
    store: Store,
    judged: JudgedImages,
    links: Mapping[str, str],
    concurrency: int,
    folder: Path,
) -> dict[str, int]:
    """Let a processor store what is not stored yet.

    Returns:
        How many images could not be stored, by reason.

    Raises:
        TransientError: The processor ended.
    """
    from job_system.dependencies import dead_letters, redis_client
    from job_system.publishing import publish

    stored, count = store.existing(links.values()), store.count()
    if count != len(stored):
        text = f"{folder} holds {count - len(stored)} images of another data set"
        raise ConfigError(f"{text}: choose another --keep", reason=Reason.BAD_ARGUMENT)
    left = {image: link for image, link in links.items() if link not in stored}
    if stored:
        say(f"{len(stored):,} of {len(links):,} images are stored already.", err=True)
    if not left:
        return {}
    publish([_job(link, image, judged) for image, link in left.items()])
    letters = dead_letters()
    with _told("Storing images", len(left)) as advance, _processor(folder, concurrency) as process:
        while (done := store.count() - count + letters.count()) < len(left):
            if process.poll() is not None:
                text = f"the processor ended: see {folder / 'processor.log'}"
                raise TransientError(text, reason=Reason.DEMO_FAILED)
            advance(done, "; ".join(map(str, open_circuits(redis_client()))))
            time.sleep(_POLL_SECONDS)
    failed = dict(letters.reasons())
    for reason, number in failed.items():
        say(f"{number:,} images could not be stored and are not found: {reason}", err=True)
    return failed


def _job(link: str, image: str, judged: JudgedImages) -> ImageJob:
    said = {"timestamp": _CAPTURED_AT, "filename": image.rpartition("/")[2]}
    return ImageJob.from_message({**said, **judged.about.get(image, {}), "url": link})


@contextmanager
def _processor(folder: Path, concurrency: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "main.py", "processor", "--concurrency", str(concurrency)]
    with (folder / "processor.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
    try:
        yield process
    finally:
        stop(process)


@contextmanager
def _told(name: str, total: int) -> Iterator[Callable[..., None]]:
    """Show progress: a bar, or now and then a line where nobody watches.

    Yields:
        Takes how far the work has come, and a few words on what it waits for.
    """
    last = time.monotonic()
    with progress_bar(name, total or 1) as move:

        def advance(done: int, words: str = "") -> None:
            nonlocal last
            text = f"{done:,}" + (f", waits for {words}" if words else "")
            move(done if total else 0, text)
            if not sys.stderr.isatty() and time.monotonic() - last > _TELL_SECONDS:
                last = time.monotonic()
                say(f"{name}: {text}" + (f" of {total:,}" if total else ""), err=True)

        yield advance


if __name__ == "__main__":
    run(search_quality)
