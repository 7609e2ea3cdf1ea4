"""What a file says about its image beside the pixels."""

from PIL import ExifTags, Image

BASE = ExifTags.Base
# What describes the photograph; a TIFF's other tags describe its own storage.
KEPT = (
    BASE.ImageDescription, BASE.Make, BASE.Model, BASE.XResolution, BASE.YResolution, BASE.ResolutionUnit, BASE.Software,
    BASE.DateTime, BASE.Artist, BASE.HostComputer, BASE.Rating, BASE.Copyright, BASE.XPTitle, BASE.XPComment, BASE.XPAuthor,
    BASE.XPKeywords, BASE.XPSubject,
)  # fmt: skip
OUTDATED = (BASE.ExifImageWidth, BASE.ExifImageHeight, ExifTags.IFD.Interop)
UPRIGHT, IS_SRGB = 1, 1


def portable_exif(exif: Image.Exif) -> bytes | None:
    """EXIF for the restored image: camera, exposure, place, time and rights as they were.

    It says upright and sRGB; the size and the thumbnail, which would be wrong, are left out. None if there was nothing to keep.
    """
    kept = Image.Exif()
    kept.update({int(tag): exif[tag] for tag in KEPT if tag in exif})
    photo, place = (dict(exif.get_ifd(ifd)) for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo))
    if not (kept or photo or place):
        return None
    kept[BASE.Orientation] = UPRIGHT
    photo = {tag: value for tag, value in photo.items() if tag not in OUTDATED} | {int(BASE.ColorSpace): IS_SRGB}
    kept.get_ifd(ExifTags.IFD.Exif).update(photo)
    if place:
        kept.get_ifd(ExifTags.IFD.GPSInfo).update(place)
    return kept.tobytes()


def is_adobe_rgb(exif: Image.Exif) -> bool:
    """Whether a camera says so (DCF 2.0): its files have no profile."""
    return exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex) == "R03"
