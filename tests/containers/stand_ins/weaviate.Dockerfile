# In place of Weaviate's image: the binary of this machine.
FROM python:3.11.16-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*
COPY weaviate /bin/weaviate
ENTRYPOINT ["/bin/weaviate"]
CMD ["--host", "0.0.0.0", "--port", "8080", "--scheme", "http"]
