# syntax=docker/dockerfile:1

# Both commands, and no entry point: `docker run taskyard task-dispenser add …`. See docs/howto/docker.md.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=redis,schedule
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --no-deps /wheels/*.whl \
    && useradd --uid 1000 --create-home app \
    && install --directory --owner=app --group=app /app
USER 1000
WORKDIR /app
# What functions print is seen at once.
ENV PYTHONUNBUFFERED=1
CMD ["taskyard", "--help"]
