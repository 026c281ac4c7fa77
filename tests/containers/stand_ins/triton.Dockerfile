# In place of nvcr.io/nvidia/tritonserver: the server of the wheel of nvidia-pytriton, where that
# image has it. The project's own stage, with the preview models, is built on top.
FROM python:3.11.16-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl libpython3.11 python3-pip \
    && rm -rf /var/lib/apt/lists/*
ARG SERVER
RUN pip install --no-cache-dir --no-deps --target /opt/server "$SERVER" \
    && ln -s /opt/server/pytriton/tritonserver /opt/tritonserver \
    && cp /opt/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub \
        /opt/tritonserver/backends/python/
ENV PATH=/opt/tritonserver/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
