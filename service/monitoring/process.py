"""This process and the disk that it shares with the others."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Process(Collector):
    """Memory, processor time and files of the process; its streams and its dispatcher; room for files."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        state = self._app.state
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            yield from collector.collect()
        yield GaugeMetricFamily("amun_streams_open", "Live streams of events.", value=state.streams.taken)
        yield GaugeMetricFamily("amun_threads", "Threads of this process.", value=threading.active_count())
        release = GaugeMetricFamily("amun_release", "1, with the release of this process.", labels=["version"])
        release.add_metric([version("amun-service")], 1)
        yield release
        failures = CounterMetricFamily("amun_dispatcher_duty_failures", "Duties that failed.", labels=["duty"])
        if state.dispatcher is not None:
            for duty, number in state.dispatcher.failures.items():
                failures.add_metric([duty], number)
        yield failures
        yield from self._disk()

    def _disk(self) -> Iterator[Metric]:
        free = GaugeMetricFamily("amun_data_free_bytes", "Room for files in the data folder.")
        size = GaugeMetricFamily("amun_data_size_bytes", "Size of the file system that holds it.")
        try:
            usage = shutil.disk_usage(self._app.state.settings.data_dir)
        except OSError:
            pass  # without samples: absent() is the alert for a volume that is not mounted
        else:
            free.add_metric([], usage.free)
            size.add_metric([], usage.total)
        yield from (free, size)
