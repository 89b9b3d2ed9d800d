"""Ray on two nodes of this machine. Nothing here is installed by ``make test``: ``pip install 'drystone[ray]'`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = str(Path(__file__).parents[2] / "examples")
try:
    import ray
    from ray.cluster_utils import Cluster
except ImportError:
    ray = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head with three CPUs, on which everything fits, and a second node with two: ``cluster.add_node(num_cpus=2)``."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'drystone[ray]'")
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([EXAMPLES, *sys.path[1:2], path])  # workers import the examples
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    sys.path.insert(0, EXAMPLES)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        started.add_node(num_cpus=2)
        ray.init(address=started.address, log_to_driver=False)
        started.wait_for_nodes()
        yield started
    finally:
        ray.shutdown()
        started.shutdown()
        sys.path.remove(EXAMPLES)
        os.environ["PYTHONPATH"] = path
