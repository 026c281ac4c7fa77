# One image for every role. Without a command it is the whole system on one machine: supervisord
# runs Redis and every role. Any role alone: docker run weavloader python main.py processor

FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS packages
RUN python -m venv /opt/venv
COPY requirements.lock /requirements.lock
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        -r /requirements.lock \
    && /opt/venv/bin/pip uninstall --yes pip setuptools

# Triton with the preview models, which need neither a GPU nor weights; not the default target.
FROM nvcr.io/nvidia/tritonserver:26.08-py3 AS triton-preview
RUN pip install --no-cache-dir --break-system-packages numpy==1.26.4 pillow==13.0.0
COPY inference/serving /models/serving
COPY inference/preview /models/preview
COPY inference/preview_repository /models/preview_repository
COPY inference/serve.sh /models/serve.sh
USER 1000:1000
CMD ["sh", "/models/serve.sh", "/models/preview_repository"]

FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS weavloader
# The distribution's current Redis: a pinned one would miss its security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin weavloader \
    && install --directory --owner=weavloader --group=weavloader --mode=0750 /data
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY weavloader weavloader
COPY metrics metrics
COPY inference/*.py inference/
COPY inference/models inference/models
COPY job_system job_system
COPY web web
COPY commands commands
COPY docs/runbook.md docs/
COPY client.py processing.py tasks.py main.py supervisord.conf ./
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    EMBEDDED_STORE_PATH=/data/store \
    FLOWER_ADDRESS=0.0.0.0 \
    REDIS_INSIDE=true \
    PROMETHEUS_MULTIPROC_DIR=/tmp/weavloader-metrics
USER 10001:10001
VOLUME /data
EXPOSE 8080
# Of the whole system. A role alone is asked by `python main.py check --role ROLE`.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://localhost:8080/health/ready', timeout=8)"]
CMD ["supervisord", "--nodaemon", "--configuration", "/app/supervisord.conf"]
