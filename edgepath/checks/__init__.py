"""Is the artifact its program, and is it near the model?

drift          how far one set of embeddings lies from another
gates          a figure held against what the recipe asks for; bounds: what its sample says, verdicts: in a word
lowering       a program's artifact, built and run here; candidate: of `search`, judged by it
summary        what an export measured, as its report
verification   `verify`: all of that again, elsewhere or on other tiles
golden         full-precision embeddings captured once, to verify against
comparison     `compare`: do bundles of one model agree?
parts          an artifact's numbers against its program's, layer by layer
layerwise      its layers run alone, against integer arithmetic
debugging      `debug`: where drift comes from
lint           what runtimes stumble over in an ONNX graph; trial: TensorRT-RTX asked to build it
results        what all of these return
"""
