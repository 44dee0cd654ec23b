"""What Prometheus is told about a trunk's server."""

from __future__ import annotations

import logging
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pplr.errors import ConfigError

log = logging.getLogger("pplr.trunk")


class Figures:
    """Gauges, counters and histograms of one server. Names of clients are not among the labels."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: Any = {"registry": self.registry}
        self.sessions = Gauge("pplr_trunk_sessions", "Sessions that are open.", **options)
        self.waiting = Gauge("pplr_trunk_waiting_requests", "Requests that wait.", **options)
        self.bytes = Counter("pplr_trunk_bytes", "Bytes of frames.", ["direction", "kind"], **options)
        self.refused = Counter("pplr_trunk_refused", "Sessions that were ended by an error.", ["status"], **options)
        self.joint = Histogram(
            "pplr_trunk_joint_clients", "Clients computed together.", ["kind"], buckets=(1, 2, 4, 8, 16, 32), **options
        )
        self.seconds = Histogram("pplr_trunk_compute_seconds", "Time to compute.", ["kind"], **options)
        self.waited = Histogram("pplr_trunk_wait_seconds", "Time from arrival to answer.", ["kind"], **options)

    def publish(self, port: int) -> int:
        """Serve /metrics on a loopback port, and return it; 0 is any that is free.

        Raises:
            ConfigError: the port cannot be had.
        """
        try:
            server, _ = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as problem:
            raise ConfigError(
                f"Port {port} for metrics cannot be had: {problem.strerror}. Choose another."
            ) from problem
        return int(server.server_address[1])
