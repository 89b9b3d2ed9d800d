"""A small model of every family of timm through ``drystone.optimize``: captured or not, right or not, how fast.

pip install timm torchvision                                    # of the torch that is installed
python benchmarks/coverage_timm.py                              # all: benchmarks/results/coverage_timm.json, docs/coverage.md
python benchmarks/coverage_timm.py --quick                      # by estimates, untimed, one thread: beside other work
python benchmarks/coverage_timm.py --only resnet10t,convit_tiny # some; replaces their rows in the file

Weights are random, pictures have the model's own size; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import coverage_report
import isolated
import torch
import typer
from model_coverage import How, cover, spread_weights
from torch import nn

RESULTS = coverage_report.RESULTS / "coverage_timm.json"
SECONDS = 120.0  # for each step of a model
# The smallest of a module of timm that works at its own picture size, or of each kind where a module holds several.
# fmt: off
FAMILIES = [
    "beit_base_patch16_224", "beitv2_base_patch16_224", "botnet26t_256", "caformer_s18", "cait_xxs24_224", "coat_lite_tiny",
    "coat_tiny", "coatnet_pico_rw_224", "convformer_s18", "convit_tiny", "convmixer_768_32", "convnext_atto", "convnextv2_atto",
    "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s", "csatv2", "cspnext_tiny", "cspresnet50", "davit_tiny",
    "deit3_small_patch16_224", "deit_tiny_distilled_patch16_224", "densenet121", "dla34", "dla46x_c", "dm_nfnet_f0", "dpn48b",
    "eca_botnext26ts_256", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0",
    "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_slim_dw", "eva02_tiny_patch14_224", "fasternet_t0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gernet_s", "ghostnet_050", "ghostnetv2_100", "ghostnetv3_050",
    "gmixer_12_224", "gmlp_ti16_224", "halonet_h1", "hardcorenas_a", "hgnetv2_b0", "hiera_tiny_224", "hieradet_small",
    "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4",
    "lambda_resnet26t", "lcnet_050", "lcnetv2_small", "legacy_seresnet18", "legacy_xception", "levit_128s", "levit_conv_128s",
    "lowformer_b0", "mambaout_femto", "maxvit_pico_rw_256", "mixer_s16_224", "mixnet_s", "mnasnet_small",
    "mobilenetv3_small_050", "mobilenetv4_conv_small", "mobilenetv5_base", "mobileone_s1", "mobilevit_xxs", "mobilevitv2_050",
    "mvitv2_tiny", "naflexvit_base_patch16_gap", "nasnetalarge", "nest_tiny", "nextvit_small", "nf_regnet_b0", "pit_ti_224",
    "pnasnet5large", "poolformer_s12", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "regnety_002", "repghostnet_050", "repvgg_a0",
    "repvit_m0_9", "res2net50_14w_8s", "resmlp_12_224", "resnest14d", "resnet10t", "resnetblur18", "resnetv2_18", "rexnet_100",
    "samvit_base_patch16_224", "selecsls42", "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s1", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window8_256", "test_vit_relpos", "tf_efficientnet_lite0",
    "tiny_vit_5m_224", "tinynet_e", "tnt_s_patch16_224", "tresnet_m", "twins_pcpvt_small", "twins_svt_small", "vgg11_bn",
    "visformer_tiny", "vit_relpos_small_patch16_224", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224", "vitamin_small_224",
    "volo_d1_224", "vovnet39a", "xception41", "xcit_nano_12_p16_224",
]
# fmt: on


def load(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    spread_weights(model)
    return model, (torch.randn(1, *model.pretrained_cfg["input_size"]),), {}


def main(
    only: str = typer.Option("", help="models, with commas between"),
    quick: bool = typer.Option(False, help="one thread, plan by estimates, and time nothing"),
) -> None:
    """1 where a result is wrong or a process crashed."""
    isolated.preload("timm", "drystone.conductor", "model_coverage", "torch.export")
    names = only.split(",") if only else FAMILIES
    how = How(SECONDS, "estimate", timed=False, threads=1) if quick else How(SECONDS)
    good = cover(load, names, RESULTS, how, only=bool(only))
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
