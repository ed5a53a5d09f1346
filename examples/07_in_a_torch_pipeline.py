"""Use a bundle where a pipeline expects an encoder: TRIDENT, HEST, eva and plismbench take this module."""

import torch
from PIL import Image

import edgepath

encoder = edgepath.torch_module("build/demo-onnx-int8", threads=2)
images = [Image.fromarray(pixels) for pixels in edgepath.open_tiles("synthetic:4").read()]

batch = torch.stack([encoder.transform(image) for image in images])  # float32 (N, 3, 224, 224), normalised
print(type(encoder).__name__, encoder.ran_with, encoder(batch).shape)
encoder.close()
