#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes tests/data/fixtures: small pictures of every kind, bad ones, and what Pillow makes of them.

Needs numpy and Pillow 11 or 12: Pillow 13 resizes columns before rows when the height shrinks much more than the
width, which rounds differently. `manifest.json` names the cases, `expected.bin` holds their pixels.
"""
import io
import json
import pathlib
import shutil
import struct
import zlib

import numpy
import PIL
from PIL import Image, ImageOps

assert PIL.__version__.split(".")[0] in ("11", "12"), PIL.__version__

OUT = pathlib.Path(__file__).resolve().parent / "fixtures"
PNG = b"\x89PNG\r\n\x1a\n"
rng = numpy.random.default_rng(7)
expected = bytearray()
manifest = {"decode": [], "bad": [], "resize": []}


def picture(height, width):
    """RGB with gradients, an edge and noise: every filter and every rounding has something to do."""
    y, x = numpy.mgrid[0:height, 0:width]
    rgb = numpy.stack([255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1), 127 + 127 * numpy.sin(x * y / 9)], -1)
    rgb[(x > width // 2) & (y > height // 3)] = (250, 20, 60)
    return numpy.clip(rgb + rng.integers(-20, 21, rgb.shape), 0, 255).astype(numpy.uint8)


def store(array):
    at = len(expected)
    expected.extend(numpy.ascontiguousarray(array, dtype=numpy.uint8).tobytes())
    return at


def chunk(kind, data, crc=None):
    value = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", value)


def png(width, height, bits, colour, rows, extra=b"", interlace=0):
    """A PNG by hand; rows: bytes with a filter byte in front of each."""
    return (PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)) + extra
            + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def unfiltered(array):
    """Rows of a [height, width, channels] array, big-endian, each with filter 0."""
    return b"".join(b"\0" + row.astype(array.dtype.newbyteorder(">")).tobytes() for row in array)


def interlaced(array):
    """Adam7."""
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    return b"".join(unfiltered(array[y::dy, x::dx]) for y, dy, x, dx in passes if array[y::dy, x::dx].size)


def flat(image, background):
    """Grey or RGB, alpha blended on `background` (None: dropped)."""
    grey = image.mode in ("1", "L", "LA")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
        opaque = image.convert("L" if grey else "RGB")
        if background is None:
            return opaque
        base = Image.new(opaque.mode, image.size, background if grey else (background,) * 3)
        base.paste(opaque, mask=alpha)
        return base
    return image.convert("L" if grey else "RGB")


def decode_case(name, image=None, tolerance=0, alpha=("white",), exif=True):
    """What decode_image should give, for 3 and 1 channels."""
    for policy in alpha:
        source = image if image is not None else Image.open(OUT / name)
        if exif:
            source = ImageOps.exif_transpose(source)
        shown = flat(source, {"white": 255, "black": 0, "drop": None}[policy])
        for channels, mode in ((3, "RGB"), (1, "L")):
            array = numpy.asarray(shown.convert(mode))
            manifest["decode"].append(
                {"file": name, "channels": channels, "alpha": policy, "exif": exif, "height": array.shape[0],
                 "width": array.shape[1], "offset": store(array), "tolerance": tolerance})


def write(name, data):
    (OUT / name).write_bytes(data)


def save(name, image, **options):
    image.save(OUT / name, **options)


def bad(name, data, reason):
    write(name, data)
    manifest["bad"].append({"file": name, "reason": reason})


shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir()
rgb = Image.fromarray(picture(13, 17))
grey = rgb.convert("L")
alpha = Image.fromarray(numpy.linspace(0, 255, 13 * 17).astype(numpy.uint8).reshape(13, 17))
ALL = ("white", "black", "drop")

# PNG
save("rgb.png", rgb)
save("misnamed.jpg", rgb, format="PNG")
save("grey.png", grey)
save("bilevel.png", rgb.convert("1"))
palette = rgb.quantize(23)
save("palette.png", palette)
save("palette4.png", rgb.quantize(11), bits=4)
for name in ("rgb.png", "misnamed.jpg", "grey.png", "bilevel.png", "palette.png", "palette4.png"):
    decode_case(name)
la = Image.merge("LA", (grey, alpha))
rgba = rgb.copy()
rgba.putalpha(alpha)
save("grey-alpha.png", la)
save("rgba.png", rgba)
save("palette-trns.png", palette, transparency=bytes(range(0, 230, 10)))
save("rgb-trns.png", rgb, transparency=rgb.getpixel((3, 4)))
save("grey-trns.png", grey, transparency=grey.getpixel((5, 5)))
for name in ("grey-alpha.png", "rgba.png", "palette-trns.png", "rgb-trns.png", "grey-trns.png"):
    decode_case(name, alpha=ALL)
opaque = rgb.copy()
opaque.putalpha(255)
save("rgba-opaque.png", opaque)
decode_case("rgba-opaque.png")


def to_8_bit(wide):
    return ((wide.astype(numpy.uint32) + 128) // 257).astype(numpy.uint8)


wide = rng.integers(0, 65536, (11, 9, 4)).astype(numpy.uint16)
write("grey16.png", png(9, 11, 16, 0, unfiltered(wide[:, :, :1])))
decode_case("grey16.png", Image.fromarray(to_8_bit(wide[:, :, 0])))
write("rgb16.png", png(9, 11, 16, 2, unfiltered(wide[:, :, :3])))
decode_case("rgb16.png", Image.fromarray(to_8_bit(wide[:, :, :3])))
write("rgba16.png", png(9, 11, 16, 6, unfiltered(wide)))
decode_case("rgba16.png", Image.fromarray(to_8_bit(wide)), alpha=ALL)
write("interlaced.png", png(17, 13, 8, 2, interlaced(numpy.asarray(rgb)), interlace=1))
decode_case("interlaced.png")
# Its inflated bytes pass the reader's first guess and the fixed part of its limit.
y, x = numpy.mgrid[0:200, 0:200]
large = numpy.stack([x // 16, y // 16, 0 * x, 0 * x + 255], -1).astype(numpy.uint8)
write("interlaced-large.png", png(200, 200, 8, 6, interlaced(large), interlace=1))
tiff = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
write("exif.png", png(17, 13, 8, 2, unfiltered(numpy.asarray(rgb)), chunk(b"eXIf", tiff)))
decode_case("exif.png")
decode_case("exif.png", exif=False)

# BMP
save("rgb.bmp", rgb)
save("grey.bmp", grey)
save("bilevel.bmp", rgb.convert("1"))
save("palette.bmp", palette)
save("unused-alpha.bmp", rgba)  # 32 bits without bit fields: the fourth byte means nothing
for name in ("rgb.bmp", "grey.bmp", "bilevel.bmp", "palette.bmp", "unused-alpha.bmp"):
    decode_case(name)


def bmp(bits, compression, rows, height=13, header=40, masks=b"", colours=b""):
    offset = 14 + header + len(colours) + (len(masks) if header == 40 else 0)
    head = struct.pack("<IiiHHIIiiII", header, 17, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    body = head + masks
    body += b"\0" * (header - len(body)) if header > 40 else b""
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + body + colours + rows


array = numpy.asarray(rgb)
packed = array.astype(numpy.uint16) >> 3
packed = packed[:, :, 0] << 10 | packed[:, :, 1] << 5 | packed[:, :, 2]
padded = numpy.zeros((13, 18), "<u2")
padded[:, :17] = packed[::-1]
write("rgb555.bmp", bmp(16, 0, padded.tobytes()))
# 5 bits to 8 is replication of the high bits here, scaling rounded down in Pillow.
decode_case("rgb555.bmp", tolerance=1)
write("top-down.bmp", bmp(24, 0, b"".join(r[:, ::-1].tobytes() + b"\0" for r in array), height=-13))
decode_case("top-down.bmp")
bgra = numpy.asarray(rgba)[::-1][:, :, [2, 1, 0, 3]]
fields = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
write("rgba-v4.bmp", bmp(32, 3, bgra.tobytes(), header=108, masks=fields))
decode_case("rgba-v4.bmp", alpha=ALL)

# JPEG. Pillow and the program both use libjpeg-turbo with the exact integer transform.
photo = Image.fromarray(picture(29, 37))
save("444.jpg", photo, quality=90, subsampling=0)
save("420.JPG", photo, quality=80, subsampling=2, format="JPEG")
save("422.jpeg", photo, quality=80, subsampling=1)
save("progressive.jpg", photo, quality=85, progressive=True)
save("grey.jpg", photo.convert("L"), quality=85)
save("restart.jpg", photo, quality=85, restart_marker_blocks=2)
save("as-rgb.jpg", photo, quality=85, keep_rgb=True)
cmyk = Image.merge("CMYK", [*photo.convert("CMYK").split()[:3], photo.convert("L").point(lambda v: v // 4)])
save("cmyk.jpg", cmyk, quality=90)
for name in ("444.jpg", "420.JPG", "422.jpeg", "progressive.jpg", "grey.jpg", "restart.jpg", "as-rgb.jpg", "cmyk.jpg"):
    decode_case(name, tolerance=1)
# The same samples declared as YCCK: the marker's last byte is the colour transform.
data = (OUT / "cmyk.jpg").read_bytes()
at = data.index(b"Adobe")
write("ycck.jpg", data[: at + 11] + b"\2" + data[at + 12 :])
decode_case("ycck.jpg", tolerance=1)
# Without Adobe's marker: Pillow inverts all the same.
write("cmyk-plain.jpg", data[: at - 4] + data[at + 12 :])
decode_case("cmyk-plain.jpg", tolerance=1)
small = Image.fromarray(picture(8, 16))
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(f"exif-{orientation}.jpg", small, quality=95, exif=exif)
    decode_case(f"exif-{orientation}.jpg", tolerance=1)
decode_case("exif-6.jpg", tolerance=1, exif=False)
exif = Image.Exif()
exif[0x0112] = 77
save("exif-wild.jpg", small, quality=95, exif=exif)
decode_case("exif-wild.jpg", tolerance=1)
plain = (OUT / "444.jpg").read_bytes()
write("stray-bytes.jpg", plain[:2] + plain[2:].replace(b"\xff\xdb", b"\0\0\0\xff\xdb", 1) + b"trailing")
decode_case("stray-bytes.jpg", tolerance=1)

# Bad ones. "truncated" must never be a half grey picture.
good = (OUT / "rgb.png").read_bytes()
bad("empty.png", b"", "empty")
bad("text.png", b"This is no picture.\n", "not a picture")
bad("truncated.png", good[: len(good) * 2 // 3], "truncated PNG")
bad("no-end.png", good[:-12], "truncated PNG")
bad("signature-only.png", PNG, "truncated PNG")
damaged = bytearray(good)
damaged[len(good) // 2] ^= 1
bad("bad-crc.png", bytes(damaged), "checksum")
bad("short-data.png", png(17, 13, 8, 2, unfiltered(array[:6])), "damaged or unsupported png")
bad("no-data.png", PNG + good[8:33] + chunk(b"IEND", b""), "no pixel data")
bad("huge.png", png(65535, 65535, 8, 2, b"\0" * 100), "65535x65535")
bad("many-pixels.png", png(16000, 16000, 8, 2, b"\0" * 100), "data.max_pixels")
bad("zero.png", png(0, 13, 8, 2, b"\0" * 100), "size 0x13")
bad("bomb.png", png(8, 8, 8, 2, b"\0" * 4_000_000), "larger than its size explains")
bad("colour-type.png", png(8, 8, 8, 5, b"\0" * 100), "colour type")
bad("cgbi.png", PNG + chunk(b"CgBI", b"\x50\0\x20\2") + good[8:], "CgBI")
frames = [Image.fromarray(picture(8, 8)) for _ in range(2)]
buffer = io.BytesIO()
frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
bad("animated.png", buffer.getvalue(), "animated PNG")
for kind, name in (("GIF", "GIF"), ("WEBP", "WebP"), ("TIFF", "TIFF"), ("PPM", "PNM"), ("JPEG2000", "JPEG 2000")):
    buffer = io.BytesIO()
    Image.fromarray(picture(8, 8)).save(buffer, kind)
    bad(f"other.{kind.lower()}", buffer.getvalue(), f"{name} is not supported")
bad("truncated.jpg", plain[: len(plain) * 2 // 3], "remature end")
bad("truncated-header.jpg", plain[:200], "within its header")
progressive = (OUT / "progressive.jpg").read_bytes()
bad("truncated-progressive.jpg", progressive[: len(progressive) // 2], "remature end")
bad("garbage.jpg", plain[: plain.index(b"\xff\xda") + 14] + bytes(rng.integers(0, 255, 300, numpy.uint8)) + b"\xff\xd9",
    "damaged JPEG")
frame = plain.index(b"\xff\xc0")
bad("huge.jpg", plain[: frame + 5] + b"\xff\xdc\xff\xdc" + plain[frame + 9 :], "data.max_pixels")
bad("no-frame.jpg", b"\xff\xd8\xff\xda\0\2\xff\xd9", "no frame header")
bad("two-components.jpg", plain[: frame + 9] + b"\2" + plain[frame + 10 :], "JPEG")
bad("12-bit.jpg", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :], "12 bits")
whole = (OUT / "rgb.bmp").read_bytes()
bad("truncated.bmp", whole[:-100], "truncated BMP")
bad("header.bmp", whole[:40], "truncated BMP")
indices = b"".join(bytes(range(17)) + b"\0\0\0" for _ in range(13))
bad("palette-range.bmp", bmp(8, 0, indices, colours=b"\1\2\3\0" * 9), "palette")
bad("rle.bmp", bmp(8, 1, indices, colours=b"\1\2\3\0" * 256), "run-length")
bad("os2.bmp", b"BM" + struct.pack("<IHHIIHHHH", 300, 0, 0, 26 + 768, 12, 17, 13, 1, 8) + b"\0" * 768 + indices, "OS/2")

# Resizing: enlarging, reducing, one side only, to one pixel, in both modes.
FILTERS = {"area": Image.Resampling.BOX, "bilinear": Image.Resampling.BILINEAR,
           "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
for height, width, mode in ((37, 53, "RGB"), (24, 24, "L")):
    source = Image.fromarray(picture(height, width)).convert(mode)
    at = store(numpy.asarray(source))
    for out_height, out_width in ((16, 16), (37, 20), (50, 24), (41, 59), (1, 1), (7, 80)):
        for name, kind in FILTERS.items():
            result = numpy.asarray(source.resize((out_width, out_height), kind))
            manifest["resize"].append(
                {"height": height, "width": width, "channels": len(source.getbands()), "source": at, "filter": name,
                 "out_height": out_height, "out_width": out_width, "offset": store(result)})
# A checkerboard and isolated points overshoot: the sums are clipped.
harsh = numpy.where(rng.integers(0, 2, (20, 30)) > 0, 255, 0).astype(numpy.uint8)
at = store(harsh)
for name, kind in FILTERS.items():
    result = numpy.asarray(Image.fromarray(harsh).resize((45, 13), kind))
    manifest["resize"].append({"height": 20, "width": 30, "channels": 1, "source": at, "filter": name, "out_height": 13,
                               "out_width": 45, "offset": store(result)})

(OUT / "expected.bin").write_bytes(expected)
(OUT / "manifest.json").write_text(json.dumps(manifest, indent=0).replace(",\n\"", ", \"") + "\n")
total = sum(p.stat().st_size for p in OUT.iterdir())
print(f"{len(manifest['decode'])} decode, {len(manifest['bad'])} bad, {len(manifest['resize'])} resize; {total} bytes")
