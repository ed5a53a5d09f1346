"""Small slides written for tests: any pixels as a tiled pyramid, and damage done to one of its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, VLWholeSlideMicroscopyImageStorage, generate_uid

GLASS = (243, 242, 244)
PINK = (200, 120, 170)
TILE = 256  # of the file, pixels


def glass(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GLASS, np.uint8)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stained(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return noise in the colours of tissue."""
    return (noise(width, height, seed) // 3 + np.array([150, 60, 130])).astype(np.uint8)


def write_tiff(
    path: Path, *levels: np.ndarray, mpp: float | tuple[float, float] | None = 0.5, compression: str | None = "zlib"
) -> Path:
    """Write levels, finest first, as a tiled pyramid; `mpp` None writes no resolution."""
    across, down = (mpp, mpp) if mpp is None or isinstance(mpp, float) else mpp
    scale: dict[str, object] = {}
    if across and down:
        scale = {"resolution": (1e4 / across, 1e4 / down), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for level, pixels in enumerate(levels):
            file.write(
                pixels,
                tile=(TILE, TILE),
                photometric="rgb",
                compression=compression,
                subfiletype=int(level > 0),
                metadata=None,
                **scale,
            )
    return path


def destroy_tiles(path: Path, indices: Sequence[int], level: int = 0) -> None:
    """Overwrite the bytes of some of the file's tiles."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[level]
        places = [(page.dataoffsets[i], page.databytecounts[i]) for i in indices]
    with open(path, "r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(b"\xff" * count)


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    *,
    mpp: float | tuple[float, float] = 0.5,
    series: str = "1.2.3.4",
    kind: str = "VOLUME",
    rle: bool = False,
    resampled: bool = False,
) -> Path:
    """Write one level, or a label or overview, of a slide as DICOM (VL Whole Slide Microscopy Image, TILED_FULL)."""
    across, down = (mpp, mpp) if isinstance(mpp, (int, float)) else mpp
    rows, columns = (-(-side // TILE) for side in pixels.shape[:2])
    padded = np.pad(
        pixels, ((0, rows * TILE - pixels.shape[0]), (0, columns * TILE - pixels.shape[1]), (0, 0)), mode="edge"
    )
    frames = padded.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", series, f"{series}.1"
    data.ImageType = ["DERIVED", "PRIMARY", kind, "RESAMPLED" if resampled else "NONE"]
    data.Modality, data.PatientName, data.PatientID = "SM", "", ""
    data.StudyDate = data.StudyTime = data.ReferringPhysicianName = data.AccessionNumber = data.StudyID = ""
    data.SeriesNumber = data.InstanceNumber = 1
    data.ContentDate, data.ContentTime, data.AcquisitionDateTime = "20260101", "000000", "20260101000000"
    data.Manufacturer, data.ContainerIdentifier, data.VolumetricProperties = "made", "1", "VOLUME"
    data.SpecimenLabelInImage, data.BurnedInAnnotation, data.FocusMethod = "NO", "NO", "AUTO"
    data.ExtendedDepthOfField, data.LossyImageCompression, data.PositionReferenceIndicator = "NO", "00", "SLIDE_CORNER"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.Rows = data.Columns = TILE
    data.NumberOfFrames, data.DimensionOrganizationType = len(frames), "TILED_FULL"
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = pixels.shape[:2]
    data.TotalPixelMatrixFocalPlanes = data.NumberOfOpticalPaths = 1
    data.ImagedVolumeWidth, data.ImagedVolumeHeight = pixels.shape[1] * across / 1000, pixels.shape[0] * down / 1000
    data.ImagedVolumeDepth = 0.001
    data.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    data.TotalPixelMatrixOriginSequence = [_items(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)]
    light = _items(CodeValue="111744", CodingSchemeDesignator="DCM", CodeMeaning="Brightfield illumination")
    colour = _items(CodeValue="414298005", CodingSchemeDesignator="SCT", CodeMeaning="Full Spectrum")
    data.OpticalPathSequence = [
        _items(
            OpticalPathIdentifier="1",
            IlluminationTypeCodeSequence=[light],
            IlluminationColorCodeSequence=[colour],
            ObjectiveLensPower=20,
        )
    ]
    measures = _items(PixelSpacing=[down / 1000, across / 1000], SliceThickness=0.001)
    data.SharedFunctionalGroupsSequence = [
        _items(PixelMeasuresSequence=[measures], OpticalPathIdentificationSequence=[_items(OpticalPathIdentifier="1")])
    ]
    data.PixelData = frames.tobytes()
    data["PixelData"].VR = "OB"
    if rle:
        data.compress(RLELossless, encoding_plugin="pydicom")
    data.save_as(path, enforce_file_format=True)
    return path


def _items(**values: object) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data
