# Two images from one file: `service` holds no torch, `worker` does. `make requirements` writes what each installs.
FROM python:3.11.13-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN groupadd --gid 10001 amun && useradd --uid 10001 --gid amun --create-home amun \
    && install -d -o amun -g amun -m 0750 /var/lib/amun /var/lib/amun/data /var/lib/amun/secrets /var/lib/amun/import
WORKDIR /opt/amun
COPY pyproject.toml README.md ./

FROM base AS service
# `amun backup` copies PostgreSQL with its own client programs, of the version that docker-compose.yml runs.
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client-15 && rm -rf /var/lib/apt/lists/*
COPY requirements.service.txt ./
# Nothing but what the list pins; `pip check` fails where that is not enough.
RUN pip install --no-deps -r requirements.service.txt
COPY models ./models
COPY migrations ./migrations
COPY service ./service
RUN pip install --no-deps --no-build-isolation . && pip check
ENV PYTHONPATH=/opt/amun
USER 10001:10001
EXPOSE 8000
CMD ["uvicorn", "service.app:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", "--timeout-graceful-shutdown", "5"]

FROM base AS worker
COPY requirements.worker.txt ./
# On a CPU-only host, build with --build-arg TORCH_REQUIREMENT naming a CPU wheel; the default brings CUDA, whose packages
# torch itself pins.
ARG TORCH_REQUIREMENT="torch==2.13.0"
RUN pip install -c requirements.worker.txt "${TORCH_REQUIREMENT}" && pip install --no-deps -r requirements.worker.txt
COPY models ./models
COPY worker ./worker
RUN pip install --no-deps --no-build-isolation . && pip check
ENV PYTHONPATH=/opt/amun MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
CMD ["python", "-m", "celery", "-A", "worker.tasks", "worker", "-P", "prefork", "-c", "1", "-Q", "amun", "--loglevel", "INFO"]
