"""What a file says of itself before a pixel is decoded: its format, and what decides how a PNG or a JPEG is read.

Neither Pillow nor TensorFlow is asked, since metadata that a reader stumbles over say nothing about the pixels.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""That are taken; a file's content decides, not its name."""

EMPTY = "empty"
NOT_AN_IMAGE = "not_an_image"
UNSUPPORTED_FORMAT = "unsupported_format"
UNSUPPORTED_MODE = "unsupported_mode"
TOO_MANY_PIXELS = "too_many_pixels"
DAMAGED = "damaged"
INVISIBLE = "invisible"
FAILED = "failed"

SNIFFED_BYTES = 512
"""That `format_of` looks at."""
_ENDINGS = {
    *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "dib", "tif", "tiff", "heic", "heif", "avif"),
    *("jp2", "j2k", "jpf", "jxl", "ico", "psd", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf", "pbm", "pgm", "ppm"),
}
_SIGNATURES = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"RIFF.{4}WEBP", "WEBP"),
    (rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (rb".{4}ftyp(?=.{0,60}avi[fs])", "AVIF"),
    (rb".{4}ftyp(?:.{4}){0,20}?(?:hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
    (rb".{4}ftypcrx |FUJIFILMCCD-RAW|IIR[OS]\x08\0\0\0|MMOR\0\0\0\x08|IIU\0", "camera raw"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS\0[\x01\x02]", "Photoshop"),
    (rb"\0\0[\x01\x02]\0[^\0]\0", "Windows icon"),
    (rb"P[1-6](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d|P7\n(?:#|WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE)", "portable pixmap"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"DDS \x7c\0\0\0", "DirectDraw"),
)
_SPECIES = tuple((re.compile(pattern, re.DOTALL), name) for pattern, name in _SIGNATURES)
_OTHERS = (
    (re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", re.IGNORECASE | re.DOTALL), "an SVG drawing"),
    (re.compile(rb"%PDF-"), "a PDF"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "a video"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS; fetch the files themselves with git lfs pull"),
)
# Compressed files, records, arrays; a ZIP is none where it begins as documents and Java's packages do.
_CONTAINERS = re.compile(
    rb"PK\x03\x04(?!.{26}(?:\[Content_Types\]|mimetype|_rels/|docProps/|META-INF/))|PK\x07\x08|7z\xbc\xaf'\x1c|Rar!\x1a\x07"
    rb"|\x1f[\x8b\x9d]|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|LZIP\x01|MSCF\0\0\0\0|.{257}ustar"
    rb"|\x89HDF\r\n\x1a\n|PAR1|ARROW1\0\0",
    re.DOTALL,
)
_HEIC_HELP = (
    "convert it to JPEG (e.g. magick mogrify -format jpg, or sips -s format jpeg on a Mac); an iPhone writes JPEG with"
    " Settings > Camera > Formats > Most Compatible"
)

_ORIENTATION = 0x0112
_ORIENTATION_IN_XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")
_XMP_KEY, _RAW_EXIF_KEY = b"XML:com.adobe.xmp", b"Raw profile type exif"
_MOST_TEXT = 2**20
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_START_OF_SCAN = 0xDA
# Among the pixels are stuffed bytes and restarts, and the tables and starts of further scans.
_BEHIND_PIXELS = re.compile(rb"\xff[^\0\xc4\xd0-\xd7\xda]", re.DOTALL)
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class BadImageError(ValueError):
    """A file that can't be used as a picture.

    Args:
      code: one of the reasons above.
      message: why, in words.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Header(NamedTuple):
    """What a PNG or a JPEG says of its pixels.

    Attributes:
      height: pixels, as stored.
      width: pixels, as stored.
      depth: bits of a sample.
      channels: 1 grey, 2 grey with alpha, 3 colour, 4 colour with alpha or CMYK.
      orientation: by EXIF or XMP, 1 to 8; 1 is upright.
      transparent: whether a pixel may be so: an alpha channel, or a transparent colour.
      animated: whether frames follow.
      adobe: whether Adobe's marker says how colours are stored.
      frame: marker of a JPEG's start of frame, which says how its pixels are packed (T.81, table B.1); 0 for a PNG.
      whole: whether the end is there, and no segment lies among the pixels that Pillow passes over and TensorFlow does not.
    """

    height: int
    width: int
    depth: int
    channels: int
    orientation: int = 1
    transparent: bool = False
    animated: bool = False
    adobe: bool = False
    frame: int = 0
    whole: bool = False


def format_of(head: bytes) -> str | None:
    """Return the name of the picture format that a file begins as, taken or not; None if it is none that is known.

    Args:
      head: the first bytes, `SNIFFED_BYTES` if there are as many.
    """
    head = head[:SNIFFED_BYTES]
    return next((name for pattern, name in _SPECIES if pattern.match(head)), None)


def claims_to_be_a_picture(name: str) -> bool:
    """Return whether a file is a picture by its name.

    Args:
      name: of the file.
    """
    return os.path.splitext(name)[1][1:].lower() in _ENDINGS


def is_no_picture(name: str, head: bytes) -> bool:
    """Return whether a file neither is a picture nor claims to be one: it is passed over, and is no error.

    Args:
      name: of the file.
      head: as for `format_of`.
    """
    return not claims_to_be_a_picture(name) and format_of(head) is None


def is_container(head: bytes) -> bool:
    """Return whether a file is an archive or holds records or arrays, in which pictures may lie that nobody sees.

    Args:
      head: as for `format_of`.
    """
    return _CONTAINERS.match(head) is not None


def check_format(encoded: bytes) -> str:
    """Return the format of a file, one of `FORMATS`.

    Args:
      encoded: the content.

    Raises:
      BadImageError: it is empty, no picture, or of another format.
    """
    if not encoded:
        raise BadImageError(EMPTY, "the file is empty")
    expected = f"expected {', '.join(FORMATS)}"
    found = format_of(encoded)
    if found in FORMATS:
        return found
    if found is not None:
        what_to_do = _HEIC_HELP if found == "HEIC" else "save it as JPEG or PNG"
        raise BadImageError(UNSUPPORTED_FORMAT, f"is {found}, whatever its name says, which is not supported: {what_to_do}")
    head = encoded[:SNIFFED_BYTES]
    other = next((f" but {name}" for pattern, name in _OTHERS if pattern.match(head)), "")
    raise BadImageError(NOT_AN_IMAGE, f"not a picture{other}; {expected}")


def png(encoded: bytes) -> Header:
    """Read the header and the metadata of a PNG (specification: W3C, "Portable Network Graphics", 5 and 11).

    Args:
      encoded: the content.

    Raises:
      BadImageError: there is no header.
    """
    if encoded[12:16] != b"IHDR" or len(encoded) < 33:
        raise BadImageError(DAMAGED, "starts as PNG, but its header can't be read: truncated or damaged")
    width, height, depth, colour = struct.unpack(">IIBB", encoded[16:26])
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour)
    if channels is None or not width or not height:
        raise BadImageError(DAMAGED, "starts as PNG, but its header is damaged")
    header = Header(height, width, depth, channels, transparent=colour in {4, 6}, whole=_PNG_END in encoded)
    by_exif, by_xmp = 0, 0
    for name, content in _png_chunks(encoded):
        if name == b"tRNS":
            header = header._replace(transparent=True)
        elif name == b"acTL":
            header = header._replace(animated=True)
        elif name == b"eXIf":
            by_exif = by_exif or orientation_of_exif(bytes(content))
        elif name in {b"tEXt", b"zTXt"} and bytes(content[: len(_RAW_EXIF_KEY)]) == _RAW_EXIF_KEY:
            by_exif = by_exif or _orientation_of_text(bytes(content), name == b"zTXt")
        elif name == b"iTXt" and bytes(content[: len(_XMP_KEY)]) == _XMP_KEY:
            by_xmp = by_xmp or orientation_of_xmp(_inflated(bytes(content)))
    return header._replace(orientation=by_exif or by_xmp or 1)


def jpeg(encoded: bytes) -> Header:
    """Read the header and the metadata of a JPEG (specification: ITU-T T.81, annex B).

    Args:
      encoded: the content.

    Raises:
      BadImageError: there is no header.
    """
    by_exif, by_xmp, adobe, whole, header = 0, 0, False, False, None
    for marker, content in _jpeg_segments(encoded):
        if marker in _START_OF_FRAME and len(content) >= 6:
            depth, height, width, channels = struct.unpack(">BHHB", content[:6])
            header = header or Header(height, width, depth, channels, frame=marker)
        elif marker == 0xE1 and bytes(content[:6]) == b"Exif\0\0":
            by_exif = by_exif or orientation_of_exif(bytes(content))
        elif marker == 0xE1 and bytes(content[:20]) == b"http://ns.adobe.com/":
            by_xmp = by_xmp or orientation_of_xmp(bytes(content))
        elif marker == 0xEE and bytes(content[:5]) == b"Adobe":
            adobe = True
        elif marker == _START_OF_SCAN:
            behind = _BEHIND_PIXELS.search(content)
            whole = behind is not None and behind[0] == b"\xff\xd9"
    if header is None or not header.height or not header.width:
        raise BadImageError(DAMAGED, "starts as JPEG, but its header can't be read: truncated or damaged")
    return header._replace(orientation=by_exif or by_xmp or 1, adobe=adobe, whole=whole)


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, start = memoryview(encoded), 8
    while start + 8 <= len(view):
        (length,) = struct.unpack(">I", view[start : start + 4])
        yield bytes(view[start + 4 : start + 8]), view[start + 8 : start + 8 + length]
        start += length + 12


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, memoryview]]:
    """The segments before the first scan, and that with all that follows."""
    view, start = memoryview(encoded), 2
    while start + 4 <= len(view):
        if view[start] != 0xFF or view[start + 1] in {0xFF, 0}:
            start += 1  # fill bytes, and what decoders skip as well
            continue
        marker = view[start + 1]
        if marker in _STANDALONE:
            start += 2
            continue
        if marker == 0xD9:
            return
        if marker == _START_OF_SCAN:
            yield marker, view[start + 2 :]
            return
        (length,) = struct.unpack(">H", view[start + 2 : start + 4])
        yield marker, view[start + 4 : start + 2 + length]
        start += 2 + max(2, length)


def orientation_of_exif(content: bytes) -> int:
    """Return the orientation, 1 to 8; 0 if there is none or it can't be read.

    Args:
      content: EXIF.
    """
    import PIL.Image

    exif = PIL.Image.Exif()
    try:
        exif.load(content)
        found = exif.get(_ORIENTATION)
    except Exception:  # whatever is wrong with it: it is no part of the picture
        return 0
    return found if isinstance(found, int) and 1 <= found <= 8 else 0


def orientation_of_xmp(content: bytes) -> int:
    """Return the orientation, 1 to 8; 0 if there is none.

    Args:
      content: XMP.
    """
    found = _ORIENTATION_IN_XMP.search(content)
    return int(found[1]) if found else 0


def _orientation_of_text(content: bytes, packed: bool) -> int:
    """The orientation in EXIF as ImageMagick writes it into a comment: three lines, then hexadecimal digits."""
    text = content.partition(b"\0")[2]
    try:
        if packed:
            text = zlib.decompressobj().decompress(text[1:], _MOST_TEXT)
        return orientation_of_exif(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
    except (zlib.error, ValueError):
        return 0


def _inflated(content: bytes) -> bytes:
    """The text of an iTXt chunk, which may be packed."""
    _, _, rest = content.partition(b"\0")
    if rest[:1] != b"\1":
        return rest
    try:
        return zlib.decompressobj().decompress(rest[2:].split(b"\0", 2)[-1], _MOST_TEXT)
    except zlib.error:
        return b""
