# The bot and the trainer, without the sandbox and the tests.
#   docker compose run --rm bot bot login https://your.instance
#   docker compose up -d
# The digest is that of python:3.13.15-slim-trixie; docs/SECURITY.md says how to raise it.
FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS build
ARG LOCK=requirements-run.lock
COPY ${LOCK} /tmp/requirements.lock
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-compile --require-hashes --no-deps -r /tmp/requirements.lock

FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
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
