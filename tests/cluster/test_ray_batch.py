"""examples/ray_batch.py on two nodes, one of which dies in the middle."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import drystone

pytest.importorskip("ray", reason="ray is not installed: pip install 'drystone[ray]'")
pytest.importorskip("ray.data", reason="ray[data] is not installed: pip install 'drystone[ray]'")

PICTURES = 120


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Parts of photographs."""
    image = pytest.importorskip("PIL.Image")
    samples = pytest.importorskip("sklearn.datasets").load_sample_images().images
    (tmp_path / "pictures").mkdir()
    for number in range(PICTURES):
        photograph = image.fromarray(samples[number % len(samples)])
        left, top = 3 * number % 400, 2 * number % 200
        photograph.crop((left, top, left + 200, top + 200)).save(tmp_path / "pictures" / f"{number:03}.jpg")
    return tmp_path / "pictures"


def artefact(folder: Path) -> tuple[Path, nn.Module]:
    from ray_batch import BATCH, SIDE

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    drystone.save(drystone.optimize(model, (torch.randn(BATCH, 3, SIDE, SIDE),), tuning="estimate"), folder / "model.drystone")
    return folder / "model.drystone", model


def test_a_node_dies_and_each_picture_is_there_once(cluster: Any, pictures: Path, tmp_path: Path) -> None:
    import ray
    from ray_batch import SIDE, Classifier, predictions

    image = pytest.importorskip("PIL.Image")

    path, model = artefact(tmp_path)
    log = tmp_path / "log"

    class Slow(Classifier):
        """Says on which node it is, and takes its time."""

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            time.sleep(0.3)
            node = ray.get_runtime_context().get_node_id()
            with open(log, "a") as file:
                file.write(f"{node} {len(batch['path'])}\n")
            return {**super().__call__(batch), "node": [node] * len(batch["path"])}

    rows, second = [], next(iter(cluster.worker_nodes))
    done = 0
    for row in predictions(pictures, path, 2, 1, Slow).iter_rows():
        rows.append(row)
        nodes = {line.split()[0] for line in log.read_text().splitlines()}
        if not done and second.node_id in nodes:
            done = sum(int(line.split()[1]) for line in log.read_text().splitlines())
            cluster.remove_node(second, allow_graceful=False)
    assert 0 < done < PICTURES, "it died in the middle"
    counted = Counter(Path(row["path"]).name for row in rows)
    assert counted == {f"{number:03}.jpg": 1 for number in range(PICTURES)}
    for row in rows[:: PICTURES // 8]:
        pixels = torch.from_numpy(np.asarray(image.open(row["path"]).convert("RGB").resize((SIDE, SIDE), image.BILINEAR)).copy())
        with torch.no_grad():
            scores = model(((pixels.permute(2, 0, 1)[None].float() / 255) - 0.45) / 0.225).softmax(1)[0]
        assert row["class"] == scores.argmax() and abs(row["score"] - scores.max()) < 1e-3
