"""A small convolutional network on scikit-learn's handwritten digits, trained in a minute, then quantised in one line.

    pip install 'drystone[examples]'
    python examples/int8_digits.py

It prints the accuracy in float32 and in int8, and the signal-to-noise ratio of each layer.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import drystone

EPOCHS, BATCH = 12, 64
TESTED = 450  # of 1797 digits
CALIBRATION = 64


class Network(nn.Module):
    """(N, 1, 8, 8) → (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
        self.third = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.third(self.second(self.first(x))).mean((2, 3)))


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1797, 1, 8, 8) from 0 to 1 in a fixed random order, and their digits."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(found.images, dtype=torch.float32)[order, None] / 16
    return images, torch.tensor(found.target)[order]


def trained(images: torch.Tensor, labels: torch.Tensor) -> Network:
    torch.manual_seed(0)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(network(images[part]), labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images whose digit is found; the model takes them one by one."""
    with torch.no_grad():
        found = torch.cat([model(image[None]).argmax(1) for image in images])
    return float((found == labels).float().mean())


def main(tuning: str = "measure") -> tuple[float, float]:
    """The accuracies in float32 and in int8."""
    images, labels = digits()
    network = trained(images[TESTED:], labels[TESTED:])
    calibration = [image[None] for image in images[TESTED : TESTED + CALIBRATION]]
    fast = drystone.optimize(network, images[:1], dtype=torch.int8, calibration=calibration, tuning=tuning)
    result = accuracy(network, images[:TESTED], labels[:TESTED]), accuracy(fast, images[:TESTED], labels[:TESTED])
    print(fast.explain())
    print(f"accuracy: float32 {result[0]:.4f}, int8 {result[1]:.4f}")
    return result


if __name__ == "__main__":
    main()
