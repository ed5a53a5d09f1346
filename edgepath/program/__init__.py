"""Rewrites of a timm vision transformer on its way to a device: fold, calibrate, smooth, quantize.

preparing       model, tiles and full precision's embeddings, ready to be quantized
fold            exact rewrites: raw tiles in, embedding out
headroom        how near values come to FP16's largest number;  rescaling  brings them down, exactly
calibrating     tiles -> ranges and a plan: calibrate  looks, smooth  moves outliers, tune  chooses INT8's ranges
quantizing      ranges and plan -> the quantized program;  linear  an INT8 layer, qad  trains it
operations      what a program is made of;  forms  it in ONNX, decomposed  in PyTorch's, delegable  in ExecuTorch's
rebuilding      a bundle -> its program again
"""
