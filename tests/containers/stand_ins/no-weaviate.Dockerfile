# In place of Weaviate's image where no binary is at hand: it only says that it is ready, so that
# what waits for it starts. Images go to the embedded store then.
FROM python:3.11.16-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory /served/v1/.well-known \
    && touch /served/v1/.well-known/ready
USER 65534:65534
CMD ["python", "-m", "http.server", "--directory", "/served", "8080"]
