"""Files of every kind that real collections hold, made here, each with its fate."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image

from modules import headers
from tests.conftest import random_picture

HEIGHT, WIDTH = 24, 40


def scene(seed: int = 0) -> np.ndarray:
    """Smooth colours that tell every corner from the others, uint8 [24, 40, 3]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    wave = np.stack([rows * 10, columns * 6, (rows + columns) * 3 + seed * 17 % 60], axis=-1)
    return np.clip(wave, 0, 255).astype(np.uint8)


def save(image: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(seed: int = 0, mode: str = "RGB") -> PIL.Image.Image:
    return PIL.Image.fromarray(scene(seed)).convert(mode)


def with_orientation(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


def lying(orientation: int, seed: int = 0) -> PIL.Image.Image:
    """The scene stored so that the given EXIF orientation turns it upright."""
    stored = {6: PIL.Image.Transpose.ROTATE_90, 3: PIL.Image.Transpose.ROTATE_180, 8: PIL.Image.Transpose.ROTATE_270}
    return picture(seed).transpose(stored[orientation])


def rgba(seed: int = 0) -> np.ndarray:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[: HEIGHT // 2] = 0
    return np.concatenate([scene(seed), alpha], axis=-1)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(depth: int, color: int, rows: np.ndarray, *chunks: bytes, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A PNG written by hand, for what Pillow does not write: `rows` are the bytes of each row."""
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(data)), png_chunk(b"IEND", b"")]
    )


def colour_png_of_16_bit(seed: int = 0) -> bytes:
    return png(16, 2, (scene(seed).astype(np.uint16) * 257).astype(">u2").reshape(HEIGHT, -1))


def png_with_orientation_behind_the_pixels(seed: int = 0) -> bytes:
    plain = save(lying(6, seed), "PNG")
    exif = png_chunk(b"eXIf", with_orientation(6).tobytes().removeprefix(b"Exif\0\0"))
    return plain[:-12] + exif + plain[-12:]


def animation(kind: str, seed: int = 0) -> bytes:
    frames = [picture(seed + 1), picture(seed + 2)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return save(picture(seed), kind, save_all=True, append_images=frames, duration=100, loop=0, **options)


def gif_with_a_small_first_frame() -> bytes:
    """A first frame that does not fill the canvas: TensorFlow refuses it."""
    small = bytearray(save(PIL.Image.new("P", (4, 4), 1), "GIF"))
    small[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    return bytes(small)


def grey_png_with_a_transparent_value(depth: int) -> bytes:
    """The left half has the value that is transparent, the right half another."""
    clear, other = (2**depth - 1) // 2 + 1, (2**depth - 1) // 3
    bits = "".join(format(value, f"0{depth}b") for value in [clear] * (WIDTH // 2) + [other] * (WIDTH // 2))
    row = np.frombuffer(int(bits, 2).to_bytes(len(bits) // 8, "big"), np.uint8)
    return png(depth, 0, np.tile(row, (HEIGHT, 1)), png_chunk(b"tRNS", struct.pack(">H", clear)))


def png_with(*chunks: bytes, seed: int = 0) -> bytes:
    return png(8, 2, scene(seed).reshape(HEIGHT, -1), *chunks)


def jpeg_with_metadata_that_are_none(seed: int = 0) -> bytes:
    plain = save(picture(seed), "JPEG", quality=95)
    segments = [
        (0xE1, b"Exif\0\0" + bytes(range(200))),
        (0xE2, b"MPF\0II"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xED, b"Photoshop 3.0\0"),
    ]
    return (
        plain[:2] + b"".join(struct.pack(">BBH", 255, marker, len(body) + 2) + body for marker, body in segments) + plain[2:]
    )


def gif_cut_in_its_second_frame() -> bytes:
    whole = animation("GIF")
    return whole[: whole.index(b"\x21\xf9", whole.index(b"\x2c") + 100) + 1]


def heic() -> bytes:
    """Its first boxes."""
    boxes = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    return boxes + struct.pack(">I4s", 300, b"meta") + bytes(292)


def tiff_of_16_bit_in_planes() -> bytes:
    """As channel-first arrays are saved."""
    planes = (scene().astype("<u2") * 257).transpose(2, 0, 1).tobytes()
    size = len(planes) // 3
    tags = [(256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, 3, 150), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, 160)]
    tags += [(277, 3, 1, 3), (278, 3, 1, HEIGHT), (279, 4, 3, 172), (284, 3, 1, 2)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = head.ljust(150, b"\0") + struct.pack("<HHH", 16, 16, 16)
    head = (
        head.ljust(160, b"\0") + struct.pack("<III", *(200 + size * n for n in range(3))) + struct.pack("<III", *[size] * 3)
    )
    return head.ljust(200, b"\0") + planes


def on_transparency(colour: int, alpha: int) -> bytes:
    """One colour on a transparent ground."""
    pixels = np.full((HEIGHT, WIDTH, 4), colour, np.uint8)
    pixels[..., 3] = 0
    pixels[5:9, 5:30, 3] = alpha
    return save(PIL.Image.fromarray(pixels), "PNG")


UNTOUCHED, REWRITTEN = "untouched", "rewritten"

# Kind -> (maker of its bytes from a seed, format, fate, largest difference from the scene; None if it is another picture).
VALID: dict[str, tuple[Callable[[int], bytes], str, str, int | None]] = {
    "baseline JPEG": (lambda s: save(picture(s), "JPEG", quality=95), "JPEG", UNTOUCHED, 12),
    "progressive JPEG": (lambda s: save(picture(s), "JPEG", quality=95, progressive=True), "JPEG", UNTOUCHED, 12),
    "grey JPEG": (lambda s: save(picture(s, "L"), "JPEG"), "JPEG", UNTOUCHED, None),
    "CMYK JPEG": (lambda s: save(picture(s, "CMYK"), "JPEG", quality=95), "JPEG", REWRITTEN, 12),
    "JPEG lying on its side": (
        lambda s: save(lying(6, s), "JPEG", quality=95, exif=with_orientation(6)),
        "JPEG",
        REWRITTEN,
        12,
    ),
    "JPEG upside down": (lambda s: save(lying(3, s), "JPEG", quality=95, exif=with_orientation(3)), "JPEG", REWRITTEN, 12),
    "JPEG upright by EXIF": (
        lambda s: save(picture(s), "JPEG", quality=95, exif=with_orientation(1)),
        "JPEG",
        UNTOUCHED,
        12,
    ),
    "JPEG with damaged EXIF": (
        lambda s: save(picture(s), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        "JPEG",
        UNTOUCHED,
        12,
    ),
    "JPEG of several pictures": (
        lambda s: save(picture(s), "MPO", quality=95, save_all=True, append_images=[picture(s + 1)]),
        "JPEG",
        UNTOUCHED,
        12,
    ),
    "PNG": (lambda s: save(picture(s), "PNG"), "PNG", UNTOUCHED, 0),
    "grey PNG": (lambda s: save(picture(s, "L"), "PNG"), "PNG", UNTOUCHED, None),
    "bilevel PNG": (lambda s: save(picture(s, "1"), "PNG"), "PNG", UNTOUCHED, None),
    "palette PNG": (lambda s: save(picture(s, "P"), "PNG"), "PNG", UNTOUCHED, None),
    "palette PNG with a transparent colour": (
        lambda s: save(picture(s).quantize(16), "PNG", transparency=0),
        "PNG",
        REWRITTEN,
        None,
    ),
    "PNG with alpha": (lambda s: save(PIL.Image.fromarray(rgba(s)), "PNG"), "PNG", REWRITTEN, None),
    "grey PNG with alpha": (
        lambda s: save(PIL.Image.fromarray(rgba(s)).convert("LA"), "PNG"),
        "PNG",
        REWRITTEN,
        None,
    ),
    "PNG with opaque alpha": (lambda s: save(picture(s, "RGBA"), "PNG"), "PNG", UNTOUCHED, 0),
    "grey PNG of 16 bit": (
        lambda s: save(PIL.Image.fromarray(scene(s)[..., 0].astype(np.uint16) * 257 + 200), "PNG"),
        "PNG",
        REWRITTEN,
        None,
    ),
    "colour PNG of 16 bit that need not be rounded": (colour_png_of_16_bit, "PNG", UNTOUCHED, 0),
    "PNG lying on its side": (lambda s: save(lying(8, s), "PNG", exif=with_orientation(8)), "PNG", REWRITTEN, 0),
    "PNG with its orientation behind the pixels": (png_with_orientation_behind_the_pixels, "PNG", REWRITTEN, 0),
    "animated PNG": (lambda s: animation("PNG", s), "PNG", REWRITTEN, 0),
    **{
        f"grey PNG of {depth} bit with a transparent value": (
            lambda s, depth=depth: grey_png_with_a_transparent_value(depth),
            "PNG",
            UNTOUCHED if depth == 1 else REWRITTEN,  # its transparent value is white, as what is behind it
            None,
        )
        for depth in (1, 2, 4, 8, 16)
    },
    "PNG with a large colour profile": (
        lambda s: png_with(png_chunk(b"iCCP", b"printer\0\0" + zlib.compress(bytes(2 << 20))), seed=s),
        "PNG",
        UNTOUCHED,
        0,
    ),
    "PNG with a large comment": (
        lambda s: png_with(png_chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(2 << 20))), seed=s),
        "PNG",
        UNTOUCHED,
        0,
    ),
    "PNG with a wrong checksum in a comment": (
        lambda s: png_with(png_chunk(b"tEXt", b"Comment\0x")[:-1] + b"?", seed=s),
        "PNG",
        UNTOUCHED,
        0,
    ),
    "PNG without its end": (lambda s: save(picture(s), "PNG")[:-12], "PNG", REWRITTEN, 0),
    "JPEG with metadata that are none": (jpeg_with_metadata_that_are_none, "JPEG", UNTOUCHED, 12),
    "GIF": (lambda s: save(picture(s, "P"), "GIF"), "GIF", UNTOUCHED, None),
    "animated GIF": (lambda s: animation("GIF", s), "GIF", REWRITTEN, None),
    "GIF with a small first frame": (lambda s: gif_with_a_small_first_frame(), "GIF", REWRITTEN, None),
    "WebP": (lambda s: save(picture(s), "WEBP", lossless=True), "WEBP", REWRITTEN, 0),
    "lossy WebP": (lambda s: save(picture(s), "WEBP", quality=95), "WEBP", REWRITTEN, 40),
    "WebP with alpha": (lambda s: save(PIL.Image.fromarray(rgba(s)), "WEBP", lossless=True), "WEBP", REWRITTEN, None),
    "animated WebP": (lambda s: animation("WEBP", s), "WEBP", REWRITTEN, 0),
    "WebP lying on its side": (
        lambda s: save(lying(6, s), "WEBP", lossless=True, exif=with_orientation(6)),
        "WEBP",
        REWRITTEN,
        0,
    ),
    "WebP with damaged EXIF": (
        lambda s: save(picture(s), "WEBP", lossless=True, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        "WEBP",
        REWRITTEN,
        0,
    ),
    "BMP": (lambda s: save(picture(s), "BMP"), "BMP", UNTOUCHED, 0),
    "palette BMP": (lambda s: save(picture(s, "P"), "BMP"), "BMP", REWRITTEN, None),
    "TIFF": (lambda s: save(picture(s), "TIFF"), "TIFF", REWRITTEN, 0),
    "packed TIFF": (lambda s: save(picture(s), "TIFF", compression="tiff_lzw"), "TIFF", REWRITTEN, 0),
    "grey TIFF of 16 bit": (
        lambda s: save(PIL.Image.fromarray(scene(s)[..., 0].astype(np.uint16) * 257), "TIFF"),
        "TIFF",
        REWRITTEN,
        None,
    ),
    "CMYK TIFF": (lambda s: save(picture(s, "CMYK"), "TIFF"), "TIFF", REWRITTEN, 2),
    "TIFF lying on its side": (lambda s: save(lying(6, s), "TIFF", exif=with_orientation(6)), "TIFF", REWRITTEN, 0),
}

_RGB_JPEG = save(picture(), "JPEG")
_RGB_PNG = save(picture(), "PNG")
_CMYK_JPEG = save(picture(0, "CMYK"), "JPEG")

# Kind -> (its bytes, reason code).
BAD: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", headers.EMPTY),
    "text": (b"no picture at all", headers.NOT_AN_IMAGE),
    "web page instead of a picture": (b"<!DOCTYPE html><html>404 Not Found</html>", headers.NOT_AN_IMAGE),
    "zeros": (bytes(5000), headers.NOT_AN_IMAGE),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', headers.NOT_AN_IMAGE),
    "PDF": (b"%PDF-1.4\n1 0 obj\n", headers.NOT_AN_IMAGE),
    "ZIP archive": (b"PK\x03\x04" + bytes(60), headers.NOT_AN_IMAGE),
    "JPEG cut in its header": (_RGB_JPEG[:12], headers.DAMAGED),
    "JPEG cut in half": (_RGB_JPEG[: len(_RGB_JPEG) // 2], headers.DAMAGED),
    "JPEG cut at its end": (random_picture(1, 64, 64, "JPEG")[:-40], headers.DAMAGED),
    "PNG cut in its header": (_RGB_PNG[:20], headers.DAMAGED),
    "PNG cut in half": (_RGB_PNG[: len(_RGB_PNG) // 2], headers.DAMAGED),
    "PNG with a broken checksum": (_RGB_PNG[:45] + b"\xff\xff\xff" + _RGB_PNG[48:], headers.DAMAGED),
    "GIF cut": (save(picture(0, "P"), "GIF")[:300], headers.DAMAGED),
    "WebP cut": (random_picture(1, kind="WEBP")[:200], headers.DAMAGED),
    "GIF cut in its second frame": (gif_cut_in_its_second_frame(), headers.DAMAGED),
    "HEIC": (heic(), headers.UNSUPPORTED_FORMAT),
    "AVIF": (save(picture(), "AVIF"), headers.UNSUPPORTED_FORMAT),
    "JPEG XL": (b"\xff\x0a" + bytes(60), headers.UNSUPPORTED_FORMAT),
    "TIFF of 16 bit in planes": (tiff_of_16_bit_in_planes(), headers.UNSUPPORTED_MODE),
    "CMYK JPEG without Adobe's marker": (_CMYK_JPEG.replace(b"Adobe", b"Obeda"), headers.UNSUPPORTED_MODE),
    "PNG that is transparent all over": (on_transparency(80, 0), headers.INVISIBLE),
    "PNG of white strokes on transparency": (on_transparency(255, 200), headers.INVISIBLE),
    "BMP cut": (save(picture(), "BMP")[:300], headers.DAMAGED),
    "TIFF cut": (save(picture(), "TIFF")[:300], headers.DAMAGED),
    "TIFF of an unknown mode": (save(picture(0, "LAB"), "TIFF"), headers.UNSUPPORTED_MODE),
    "TIFF of floating point": (save(PIL.Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), headers.UNSUPPORTED_MODE),
    "TIFF of 32 bit": (save(PIL.Image.fromarray(np.ones((9, 9), np.int32)), "TIFF"), headers.UNSUPPORTED_MODE),
    "PNG that is a decompression bomb": (
        png(1, 0, np.zeros((1, 1), np.uint8), height=40_000, width=40_000),
        headers.TOO_MANY_PIXELS,
    ),
    "PNG just above the limit": (
        png(8, 0, np.zeros((1, 1), np.uint8), height=10_001, width=10_000),
        headers.TOO_MANY_PIXELS,
    ),
    "PNG of no height": (png(8, 0, np.zeros((0, 1), np.uint8), height=0, width=10), headers.DAMAGED),
    "icon": (save(picture(), "ICO"), headers.UNSUPPORTED_FORMAT),
    "JPEG 2000": (save(picture(), "JPEG2000"), headers.UNSUPPORTED_FORMAT),
    "portable pixmap": (save(picture(), "PPM"), headers.UNSUPPORTED_FORMAT),
}
