# In place of redis:7.4.11-bookworm: Debian's Redis 7.0, with that image's user and folder.
FROM python:3.11.16-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=999 --group=999 /data
VOLUME /data
WORKDIR /data
CMD ["redis-server"]
