# The bot and the trainer, without the sandbox and the tests.
#   docker compose run --rm bot bot login https://your.instance
#   docker compose up -d
FROM python:3.13-slim AS build
COPY requirements-run.lock /tmp/
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-compile --require-hashes --no-deps -r /tmp/requirements-run.lock

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home dokocos \
 && install --directory --owner=dokocos --group=dokocos --mode=0750 /data
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/dokocos
COPY config.yaml ./
COPY trainer trainer
COPY bot bot
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DOKOCOS_DATA_DIR=/data \
    KERAS_HOME=/data/keras
USER 10001
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s CMD ["python", "-m", "bot", "health"]
ENTRYPOINT ["python", "-m"]
CMD ["bot", "run"]
