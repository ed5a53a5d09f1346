"""Lower the same program for a second runtime, and compare the embeddings of both."""

import edgepath

edgepath.export("openvino-int8", calibration="synthetic:64", calibration_tiles=32, out="build", force=True)
result = edgepath.compare(["build/demo-onnx-int8", "build/demo-openvino-int8"])

for pair in result["pairs"]:
    print(" and ".join(pair["of"]), f"1 - cosine = {1 - pair['cosine_mean']:.1e}")
print(f"noise floor: {result['noise_floor']:.1e}")
