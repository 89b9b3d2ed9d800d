"""From a model of floats and calibration data to a graph of codes, by torchao's PT2E."""
