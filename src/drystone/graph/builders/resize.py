"""Resizes, and sampling by a grid. ``scales`` are the factors by which torch's kernels multiply output coordinates."""

from __future__ import annotations

from collections.abc import Sequence

from drystone.graph.builders.registry import Built, Declined, Emitter, builds
from drystone.graph.graph import Value
from drystone.graph.ops import GridSample, Resize


def _resize(b: Emitter, x: Value, mode: str, align_corners: bool, factors: Sequence[float | None]) -> Value:
    sizes, counts = x.shape[2:], b.shape[2:]
    if len(sizes) != len(factors):
        raise Declined("a resize of an input without a batch dimension")
    scales = []
    for size, count, factor in zip(sizes, counts, factors, strict=True):
        if mode == "nearest" and count in (size, 2 * size):
            scales.append(size / count)  # torch's kernel goes by the sizes here, whatever the factor was
        elif align_corners:
            scales.append((size - 1) / (count - 1) if count > 1 else 0.0)
        elif factor is not None and factor > 0:
            # Not size / count: the output's size was rounded, the factor was not.
            scales.append(1.0 / factor)
        else:
            scales.append(size / count)
    return b.emit(Resize(mode, align_corners, tuple(scales), counts), [x])


def _nearest_builder(name: str, axes: int, mode: str) -> None:
    @builds(f"{name}.vec")
    def nearest_vec(b: Emitter, x: Value, output_size: list[int] | None, scale_factors: list[float] | None) -> Built:
        return _resize(b, x, mode, False, scale_factors or [None] * axes)

    @builds(f"{name}.default")
    def nearest(b: Emitter, x: Value, output_size: list[int], *factors: float | None, **named: float | None) -> Built:
        return _resize(b, x, mode, False, _factors(axes, factors, named))


def _interpolation_builder(name: str, axes: int, mode: str = "linear") -> None:
    @builds(f"{name}.vec")
    def interpolate_vec(
        b: Emitter, x: Value, output_size: list[int] | None, align_corners: bool, scale_factors: list[float] | None
    ) -> Built:
        return _resize(b, x, mode, align_corners, scale_factors or [None] * axes)

    @builds(f"{name}.default")
    def interpolate(
        b: Emitter, x: Value, output_size: list[int], align_corners: bool, *factors: float | None, **named: float | None
    ) -> Built:
        return _resize(b, x, mode, align_corners, _factors(axes, factors, named))


def _factors(axes: int, factors: tuple[float | None, ...], named: dict[str, float | None]) -> list[float | None]:
    names = ["scales"] if axes == 1 else ["scales_d", "scales_h", "scales_w"][-axes:]
    return list(factors) + [named.get(name) for name in names[len(factors) :]]


for _axes in (1, 2, 3):
    _nearest_builder(f"upsample_nearest{_axes}d", _axes, "nearest")
    _nearest_builder(f"_upsample_nearest_exact{_axes}d", _axes, "nearest_exact")
_interpolation_builder("upsample_linear1d", 1)
_interpolation_builder("upsample_bilinear2d", 2)
_interpolation_builder("upsample_trilinear3d", 3)
_interpolation_builder("upsample_bicubic2d", 2, "cubic")
_interpolation_builder("_upsample_bilinear2d_aa", 2, "linear_antialias")
_interpolation_builder("_upsample_bicubic2d_aa", 2, "cubic_antialias")


@builds("grid_sampler", "grid_sampler_2d")
def grid_sample(b: Emitter, x: Value, grid: Value, mode: int, padding: int, align_corners: bool) -> Built:
    if mode not in (0, 1) or len(x.shape) != 4:
        raise Declined("a bicubic or volumetric sampling")
    paddings = ("zeros", "border", "reflection")
    return b.emit(GridSample(("bilinear", "nearest")[mode], paddings[padding], align_corners), [x, grid])
