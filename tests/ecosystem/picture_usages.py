"""Libraries for pictures. Where weights are random, so is what is seen; what is found must be the same all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from usage import Used, usage


def photograph() -> Any:
    """Of a person, from matplotlib's sample data."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    return Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")


def pictures(*sizes: tuple[int, int]) -> list[Any]:
    return [photograph().resize(size) for size in sizes]


@usage("transformers", 'pipeline("image-classification")', "transformers", "PIL", "matplotlib")
def image_classification() -> Used:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=10, initializer_range=0.1
    )
    classify = transformers.pipeline(
        "image-classification",
        model=transformers.ViTForImageClassification(config).eval(),
        image_processor=transformers.ViTImageProcessor(),
        device="cpu",
    )
    images = pictures((300, 400), (640, 480))
    return Used(classify.model, lambda: classify(images))


@usage("transformers", 'pipeline("object-detection") with DETR', "transformers", "PIL", "matplotlib", "scipy")
def detr() -> Used:
    import transformers

    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, encoder_layers=2, decoder_layers=2, num_queries=50, num_labels=10
    )
    detect = transformers.pipeline(
        "object-detection",
        model=transformers.DetrForObjectDetection(config).eval(),
        image_processor=transformers.DetrImageProcessor(size={"shortest_edge": 320, "longest_edge": 480}),
        device="cpu",
    )
    images = pictures((300, 400), (640, 480))
    return Used(detect.model, lambda: [detect(image, threshold=0.0) for image in images])


@usage("facenet-pytorch", "MTCNN().detect(picture)", "facenet_pytorch", "matplotlib")
def mtcnn() -> Used:
    from facenet_pytorch import MTCNN

    finder, picture = MTCNN(keep_all=True, device="cpu").eval(), photograph()
    return Used(finder, lambda: finder.detect(picture, landmarks=True))


def yolo(config: str) -> Used:
    from ultralytics import YOLO

    detector = YOLO(config)
    images = [np.array(picture)[..., ::-1].copy() for picture in pictures((640, 480), (480, 640), (500, 400))]

    def run() -> Any:
        found = [detector.predict(image, imgsz=320, conf=0.001, verbose=False)[0] for image in images]
        return [result.boxes.data for result in found]

    return Used(detector.model, run)


@usage("ultralytics", 'YOLO("yolov8n.yaml").predict(3 pictures)', "ultralytics", "matplotlib")
def yolov8n() -> Used:
    return yolo("yolov8n.yaml")


@usage("ultralytics", 'YOLO("yolo11n.yaml").predict(3 pictures)', "ultralytics", "matplotlib")
def yolo11n() -> Used:
    return yolo("yolo11n.yaml")


@usage("open_clip", "encode_image, encode_text of ViT-S-32", "open_clip", "matplotlib")
def open_clip_encode() -> Used:
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms("ViT-S-32", pretrained=None)
    model.eval()
    image, text = preprocess(photograph())[None], open_clip.get_tokenizer("ViT-S-32")(["a photograph", "a painting of a ship"])

    @torch.inference_mode()
    def run() -> Any:
        return model.encode_image(image, normalize=True), model.encode_text(text, normalize=True)

    return Used(model, run)


def torchvision_detector(name: str, **options: Any) -> Used:
    import torchvision

    build = getattr(torchvision.models.detection, name)
    model = build(weights=None, weights_backbone=None, num_classes=5, **options).eval()
    images = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures((320, 240), (280, 300))]
    # Untrained, activations vanish, all scores are nearly equal, and rounding decides on their order.
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train().momentum = 1.0
        if name.endswith(("cls_logits", "cls_score")):
            torch.nn.init.normal_(module.weight, std=0.1)
    with torch.no_grad():
        model(images)
    model.eval()

    @torch.inference_mode()
    def run() -> Any:
        return [model([image]) for image in images]

    return Used(model, run)


@usage("torchvision", "fasterrcnn_mobilenet_v3_large_320_fpn([picture])", "torchvision", "matplotlib")
def fasterrcnn() -> Used:
    return torchvision_detector("fasterrcnn_mobilenet_v3_large_320_fpn", min_size=240, max_size=320)


@usage("torchvision", "retinanet_resnet50_fpn([picture])", "torchvision", "matplotlib")
def retinanet() -> Used:
    return torchvision_detector("retinanet_resnet50_fpn", min_size=240, max_size=320)


@usage("torchvision", "ssdlite320_mobilenet_v3_large([picture])", "torchvision", "matplotlib")
def ssdlite() -> Used:
    return torchvision_detector("ssdlite320_mobilenet_v3_large")
