"""Libraries for time series, and for training loops."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn
from usage import Used, usage


@usage("chronos-forecasting", "predict_quantiles of Chronos-Bolt (mini)", "chronos")
def chronos_bolt() -> Used:
    from chronos import ChronosBoltPipeline
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    config = T5Config(
        d_model=384,
        d_kv=64,
        d_ff=1536,
        num_layers=4,
        num_heads=8,
        is_encoder_decoder=True,
        feed_forward_proj="relu",
        initializer_factor=0.05,
        pad_token_id=0,
        decoder_start_token_id=0,
        chronos_config={
            "context_length": 2048,
            "prediction_length": 64,
            "input_patch_size": 16,
            "input_patch_stride": 16,
            "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
            "use_reg_token": True,
        },
    )
    pipeline = ChronosBoltPipeline(ChronosBoltModelForForecasting(config).eval())
    series = [torch.randn(length).cumsum(0) for length in (200, 333, 512)]

    def run() -> Any:
        return [pipeline.predict_quantiles(each, prediction_length=24, quantile_levels=[0.1, 0.5, 0.9]) for each in series]

    return Used(pipeline.model, run)


@usage("lightning", "Trainer().predict(model, loader)", "lightning")
def lightning_predict() -> Used:
    import lightning
    from torch.utils.data import DataLoader

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            channels = [3, 32, 64, 128]
            blocks = [
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1), nn.ReLU())
                for a, b in itertools.pairwise(channels)
            ]
            self.layers = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

        def predict_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self(batch)

    model = Classifier().eval()
    loader = DataLoader(torch.randn(44, 3, 64, 64), batch_size=8)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", **quiet)
    return Used(model, lambda: trainer.predict(model, loader))
