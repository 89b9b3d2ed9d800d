"""Prepared models on disk: a folder of JSON and safetensors (docs/artefact.md), of which every number is checked before use."""
