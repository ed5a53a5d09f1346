"""Rewrites of a timm vision transformer on its way to a device: fold, calibrate, smooth, quantize."""
