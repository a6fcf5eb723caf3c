# The worker, the command line and the demo services; the server itself is a container of its own.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY alembic alembic
COPY eventsaga eventsaga
# The services too, but not the embedded PostgreSQL that the extra "demo" brings.
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[metrics,speed,services]'

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'eventsaga[metrics,speed,services]' \
 && useradd --system --no-create-home eventsaga
USER eventsaga
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["eventsaga"]
CMD ["--help"]
