"""Small ICC profiles, written by the specification (ICC.1:2010): what cameras, screens and presses embed."""

import struct

# Colorants (X, Y, Z) of red, green and blue, adapted to D50.
P3 = ((0.515102, 0.241182, -0.001050), (0.291965, 0.692236, 0.041882), (0.157153, 0.066582, 0.784378))
ADOBE = ((0.609741, 0.311111, 0.019470), (0.205276, 0.625671, 0.060867), (0.149185, 0.063217, 0.744568))
SRGB = ((0.436066, 0.222488, 0.013916), (0.385147, 0.716873, 0.097076), (0.143066, 0.060608, 0.714096))

D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(colorants: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    named = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, colorants), strict=True))
    return _profile(b"mntr", b"RGB ", b"XYZ ", named | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(curve: bytes) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def cmyk_profile(lightness: tuple[int, ...]) -> bytes:
    """A press that has no colours: `lightness` (0 to 100) of each of the 16 overprints from none to C+M+Y+K, black fastest."""
    straight = bytes(range(256))
    points = b"".join(bytes((round(value * 2.55), 128, 128)) for value in lightness)
    one = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + b"".join(map(_fixed, one)) + straight * 4 + points + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def gamma(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)


def srgb_curve() -> bytes:
    values = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, values))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 8, 28) + "test".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text, b"wtpt": _xyz(D50)} | tags
    offset = 128 + 4 + 12 * len(tags)
    index, content = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        index += name + struct.pack(">II", offset + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    date = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
    header = bytes(4) + struct.pack(">I", 0x04300000) + kind + space + connection + date + b"acsp" + bytes(28)
    header += b"".join(map(_fixed, D50)) + bytes(48)
    return struct.pack(">I", offset + len(content)) + header + index + content


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
