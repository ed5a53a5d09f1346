"""ONNX files read back: the graph, its contents, its layers one by one."""
