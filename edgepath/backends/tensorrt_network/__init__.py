"""TensorRT's networks as values: read from its bindings, computed in torch, and held against each other."""
