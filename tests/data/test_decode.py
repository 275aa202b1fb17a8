"""Every kind of image file is decoded to the right uint8 pixels, and damaged files raise known exceptions."""

import io
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data.decode import FILTERS, FORMATS, UNREADABLE, CropError, Decoding, crop_box, decode, largest_box
from tests.data.pictures import config, encoded, noise


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "BMP"), ("P", "GIF"), ("RGB", "WEBP"), ("L", "PNG")]
    + [("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("RGBA", "WEBP")]
    + [("RGB", "TIFF"), ("CMYK", "TIFF"), ("I;16", "TIFF"), ("RGBA", "TIFF"), ("L", "PPM"), ("RGB", "JPEG2000")]
    + [("RGB", "AVIF")],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_grey_image_is_the_same_grey_in_every_format(mode, kind, channels):
    if mode == "I;16":
        image = Image.fromarray(np.full((12, 12), 120 * 257, np.uint16))
    else:
        image = Image.new("RGB", (12, 12), (120, 120, 120)).convert(mode)
    pixels = decode(file_of(image, kind), Decoding(6, channels))
    assert pixels.shape == (6, 6, channels) and pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), 120, atol=6 if mode == "P" else 3)  # A palette dithers.


def test_lossless_formats_keep_colours_exactly(draw):
    pixels = noise(draw, 9, 9)
    lossless = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}, "PPM": {}}
    for kind, options in lossless.items():
        np.testing.assert_array_equal(decode(encoded(pixels, kind, **options), Decoding(9, 3)), pixels)
    indexed = Image.fromarray(pixels // 128 * 255).quantize(8)
    np.testing.assert_array_equal(decode(file_of(indexed), Decoding(9, 3)), np.asarray(indexed.convert("RGB")))


def test_16_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.round(ramp / 257)[..., None]
    np.testing.assert_array_equal(decode(file_of(Image.fromarray(ramp)), Decoding(8, 1)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_at_a_depth_of_16_bits_every_level_stays(kind):
    how = Decoding(256, 1, pixel_type="uint16")
    ramp = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    for raw in (ramp, ramp[..., None], file_of(Image.fromarray(ramp), kind)):
        pixels = decode(raw, how)
        assert pixels.dtype == np.uint16
        np.testing.assert_array_equal(pixels[..., 0], ramp)


@pytest.mark.parametrize("resize", FILTERS)
def test_16_bit_grey_is_resized_as_exactly_as_its_depth(resize):
    steps = np.repeat(np.arange(1000, 1064, dtype=np.uint16), 64).reshape(64, 64)
    pixels = decode(steps, Decoding(32, 1, resize=resize, pixel_type="uint16"))[4:-4, :, 0]
    np.testing.assert_allclose(pixels, np.arange(1008.5, 1056, 2)[:, None] * np.ones((1, 32)), atol=0.51)


def test_at_a_depth_of_16_bits_white_of_8_bits_is_white(draw):
    grey, how = noise(draw, 8, 8, 1), Decoding(8, 1, background=(40, 40, 40), pixel_type="uint16")
    for raw in (grey, encoded(grey[..., 0])):
        np.testing.assert_array_equal(decode(raw, how), grey.astype(np.uint16) * 257)
    assert np.all(decode(encoded(np.full((8, 8, 3), 255, np.uint8)), how) == 65535)
    assert np.all(decode(file_of(Image.new("LA", (8, 8), (9, 0))), how) == 40 * 257)
    edge = np.repeat([0, 65535], 32).astype(np.uint16) * np.ones((64, 1), np.uint16)
    shrunk = decode(edge, Decoding(16, 1, pixel_type="uint16"))  # Lanczos overshoots on both sides.
    assert (shrunk.min(), shrunk.max()) == (0, 65535)


def test_the_key_of_8_bits_is_that_of_older_versions():
    key = "Decoding(image_size=8, channels=1, crop=(), resize='lanczos', background=(255, 255, 255))"
    assert Decoding(8, 1).key == key != Decoding(8, 1, pixel_type="uint16").key


def test_grey_of_other_integers_than_8_and_16_bits_is_refused():
    for dtype in (np.int32, np.int16):
        content = file_of(Image.fromarray(np.arange(64, dtype=dtype).reshape(8, 8) * dtype(4)), "TIFF")
        with pytest.raises(ValueError, match="neither 8 nor unsigned 16 bits"):
            decode(content, Decoding(8, 1))
    twelve = bytearray(file_of(Image.fromarray(np.full((8, 8), 4095, np.uint16)), "TIFF"))
    entry = twelve.index(struct.pack("<HHI", 258, 3, 1))  # The tag BitsPerSample.
    twelve[entry + 8 : entry + 10] = struct.pack("<H", 12)
    with pytest.raises(ValueError, match="neither 8 nor unsigned 16 bits"):
        decode(bytes(twelve), Decoding(8, 1))
    pgm = b"P5 8 8 65535\n" + np.full((8, 8), 120 * 257, ">u2").tobytes()
    assert np.all(decode(pgm, Decoding(8, 1)) == 120)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
def test_transparent_pixels_show_the_background(background):
    how = Decoding(8, 3, background=background)
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (100, 100, 100, 128))
    assert np.all(decode(file_of(clear), how) == background)
    expected = 100 * 128 / 255 + np.array(background) * 127 / 255
    np.testing.assert_allclose(decode(file_of(half), how).astype(float).mean(axis=(0, 1)), expected, atol=1)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9, 200, 200, 200])
    assert np.all(decode(file_of(palette, transparency=0), how) == background)
    assert np.all(decode(file_of(palette, "GIF", transparency=0), how) == background)


def test_alpha_is_kept_as_a_channel(draw):
    pixels = noise(draw, 8, 8, 4)
    np.testing.assert_array_equal(decode(encoded(pixels), Decoding(8, 4)), pixels)
    np.testing.assert_array_equal(decode(pixels, Decoding(8, 4)), pixels)
    for raw in (pixels[..., :2], encoded(pixels[..., :2])):
        np.testing.assert_array_equal(decode(raw, Decoding(8, 2)), pixels[..., :2])
    grey = decode(encoded(pixels), Decoding(8, 2))
    np.testing.assert_array_equal(grey[..., 1], pixels[..., 3])
    np.testing.assert_array_equal(grey[..., :1], decode(encoded(pixels[..., :3]), Decoding(8, 1)))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9, 200, 200, 200])
    for name in ("PNG", "GIF"):
        assert np.all(decode(file_of(palette, name, transparency=0), Decoding(8, 4))[..., 3] == 0)


@pytest.mark.parametrize("channels", [2, 4])
def test_images_without_alpha_are_opaque(draw, channels):
    for mode in ("1", "L", "P", "RGB", "CMYK", "I;16"):
        grey = Image.fromarray(np.full((8, 8), 120 * 257, np.uint16))
        image = grey if mode == "I;16" else Image.fromarray(noise(draw, 8, 8)).convert(mode)
        raw = file_of(image, "TIFF")
        pixels = decode(raw, Decoding(8, channels))
        assert np.all(pixels[..., -1] == 255)
        np.testing.assert_array_equal(pixels[..., :-1], decode(raw, Decoding(8, channels - 1)))


def test_hidden_colours_do_not_bleed_into_visible_ones_when_an_image_shrinks():
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 1] = 255  # Invisible green around opaque red.
    pixels[:, :7] = 255, 0, 0, 255
    shrunk = decode(pixels, Decoding(4, 4, resize="box"))
    assert 0 < shrunk[0, 1, 3] < 255 and np.all(shrunk[:, :2, 1] == 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP", "AVIF"])
def test_the_exif_orientation_is_applied(orientation, kind):
    upright = np.kron([[0, 60, 120], [240, 180, 30]], np.ones((8, 8))).astype(np.uint8)  # No symmetry, no square.
    # A camera in that orientation stores the inverse of the rotation in the tag.
    stored = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(np.transpose(x), 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encoded(np.ascontiguousarray(stored), kind, exif=exif, quality=95), Decoding((16, 24), 1))
    np.testing.assert_allclose(pixels[..., 0].astype(int), upright, atol=30)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "damaged",
    [b"garbage", b"MM", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"],
    ids=["no header", "short", "outside", "truncated"],
)
def test_damaged_metadata_cost_no_image(damaged, kind, draw, recwarn):
    upright = np.kron(noise(draw, 2, 3), np.ones((8, 8, 1), np.uint8))
    plain, odd = (encoded(upright, kind, quality=95, exif=exif) for exif in (b"", b"Exif\0\0" + damaged))
    recwarn.clear()
    np.testing.assert_array_equal(decode(odd, Decoding(16, 3)), decode(plain, Decoding(16, 3)))
    assert not recwarn.list


def test_a_turned_image_needs_no_other_sound_tag():
    # Orientation 6, and a description that consists of fractions, which Pillow reads but cannot write.
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x010E, 5, 4, 26)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + bytes(40)
    stored = np.kron([[0, 255]], np.ones((8, 8))).astype(np.uint8)
    pixels = decode(encoded(stored, exif=exif), Decoding((16, 8), 1))
    np.testing.assert_array_equal(pixels[..., 0], stored.T)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_of_several_frames_is_read(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in [(200, 10, 10), (10, 200, 10), (10, 10, 200)]]
    content = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode(content, Decoding(8, 3)).astype(int), [[[200, 10, 10]] * 8] * 8, atol=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "GIF"])
def test_one_bit_pixels_are_black_and_white(kind):
    drawing = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(decode(file_of(drawing, kind), Decoding(8, 1))[..., 0], np.eye(8) * 255)


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_inverted_jpegs_of_adobe_have_the_colours_of_their_inks(transform):
    inks = Image.new("CMYK", (16, 16), (0, 200, 150, 20))
    stored = inks
    if transform == 2:  # Adobe stores inks inverted, and YCCK once more; Pillow writes the former and reads both.
        luma = Image.merge("RGB", inks.split()[:3]).convert("YCbCr").split()
        stored = Image.merge("CMYK", [*(band.point(lambda level: 255 - level) for band in luma), inks.split()[3]])
    content = bytearray(file_of(stored, "JPEG", quality=100))
    content[content.index(b"Adobe") + 11] = transform
    expected = np.asarray(inks.convert("RGB"))
    np.testing.assert_allclose(decode(bytes(content), Decoding(16, 3)).astype(int), expected, atol=4)


def test_photos_of_iphones_are_named_whatever_their_suffix():
    with pytest.raises(ValueError, match="HEIC cannot be read; convert it to JPEG or PNG"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), Decoding(8, 3))


@pytest.mark.parametrize("resize", FILTERS)
@pytest.mark.parametrize("crop", [(), (140,), (25, 57, 153, 185)])
def test_crop_and_resize_equal_those_of_pillow(draw, crop, resize):
    pixels = noise(draw, 218, 178)
    box = {(): (0, 20, 178, 198), (140,): (19, 39, 159, 179)}.get(crop, crop)
    expected = Image.fromarray(pixels).crop(box).resize((64, 64), FILTERS[resize])
    np.testing.assert_array_equal(decode(encoded(pixels), Decoding(64, 3, crop, resize)), np.asarray(expected))


def test_downscaling_averages_over_all_pixels():
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    for resize in FILTERS:
        pixels = decode(encoded(stripes), Decoding(8, 1, resize=resize))
        np.testing.assert_allclose(pixels[:, 1:-1].astype(int), 127.5, atol=8)


def test_arrays_are_decoded_like_files(draw):
    pixels = noise(draw, 8, 8)
    np.testing.assert_array_equal(decode(pixels, Decoding(8, 3)), pixels)
    np.testing.assert_array_equal(decode(pixels[..., 0], Decoding(8, 1))[..., 0], pixels[..., 0])
    np.testing.assert_array_equal(decode(pixels[..., :1], Decoding(8, 3)), pixels[..., :1].repeat(3, axis=2))


def test_a_crop_box_outside_the_image_is_refused():
    assert crop_box((20, 10), ()) == (5, 0, 15, 10)
    for crop, needed in [((11,), "11x11"), ((0, 0, 21, 5), "21x5"), ((3, 6, 8, 11), "8x11")]:
        with pytest.raises(CropError) as caught:
            crop_box((20, 10), crop)
        assert str(caught.value) == f"data.crop={crop} needs images of at least {needed} (width x height), got 20x10"
        assert caught.value.remedy.startswith("set data.crop=(), the largest centred box")


@pytest.mark.parametrize(
    ("size", "crop", "shape", "scaled"),
    [
        ((89, 109), (25, 57, 153, 185), (64, 64), (12, 28, 76, 92)),  # CelebA in half size.
        ((100, 60), (10, 20, 170, 116), (48, 80), (8, 10, 91, 60)),
        ((50, 200), (25, 57, 153, 185), (64, 64), (7, 16, 43, 52)),
        ((300, 40), (0, 0, 50, 50), (8, 8), (130, 0, 170, 40)),
    ],
)
def test_the_remedy_for_images_smaller_than_the_crop_is_a_crop_of_its_shape_that_fits(size, crop, shape, scaled):
    with pytest.raises(CropError) as caught:
        crop_box(size, crop, shape)
    assert caught.value.remedy.endswith(f", or data.crop={scaled}, the same one scaled")
    assert crop_box(size, scaled, shape) == scaled
    config(crop=list(scaled), image_size=list(shape))  # Accepted: it has the shape.


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Of damaged metadata.
def test_damaged_images_raise_only_the_exceptions_of_unreadable_ones(draw):
    whole = [encoded(noise(draw, 40, 40), kind) for kind in FORMATS]
    for content in [b"", b"not an image", *(file[: len(file) // 2] for file in whole)]:
        with pytest.raises(UNREADABLE):
            decode(content, Decoding(8, 3))
    for content in whole:
        for _ in range(40):
            damaged = bytearray(content)
            for place in draw.integers(0, len(damaged), 4):
                damaged[place] = draw.integers(0, 256)
            try:
                assert decode(bytes(damaged), Decoding(8, 3)).shape == (8, 8, 3)
            except UNREADABLE:
                continue


@pytest.mark.parametrize("kind", ["EPS", "PDF", "TGA", "ICO"])
def test_other_formats_are_never_opened_whatever_their_suffix(kind):
    with pytest.raises(ValueError, match="not a PNG, JPEG"):
        decode(encoded(np.zeros((8, 8, 3), np.uint8), kind), Decoding(8, 3))


def test_gigapixel_images_are_refused_before_they_are_decoded(monkeypatch):
    content = encoded(np.zeros((30, 40), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(Image.DecompressionBombError):
        decode(content, Decoding(8, 1))
    # Between its limit and twice that, Pillow would only warn.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1199)
    with warnings.catch_warnings(record=True) as warned, pytest.raises(ValueError, match="megapixels"):
        warnings.simplefilter("always")
        decode(content, Decoding(8, 1))
    assert not warned


def test_importing_adds_no_filter_of_warnings():
    code = """if True:
        import warnings
        from PIL import Image
        import ddpm_jax.data.decode
        assert not [one for one in warnings.filters if one[2] is Image.DecompressionBombWarning]
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (48, 80), (80, 48), (1, 7)])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (100, 7), (33, 33)])
def test_the_largest_box_touches_two_edges_and_has_the_shape(size, shape):
    width, height = largest_box(size, shape)
    assert (width, height) in ((size[0], height), (width, size[1])) and width <= size[0] and height <= size[1]
    # At most half a pixel of rounding.
    assert abs(width * shape[0] - height * shape[1]) <= max(shape) / 2 or min(width, height) == 1


def test_images_of_any_shape_keep_their_proportions(draw):
    """A circle stays one, whatever is cut away around it."""
    y, x = np.mgrid[:120, :200]
    disc = np.where((y - 59.5) ** 2 + (x - 99.5) ** 2 < 50**2, 255, 0).astype(np.uint8)
    for image_size, crop in {(24, 40): (), (40, 24): (), (30, 20): (90, 60), (20, 30): (50, 30, 150, 96)}.items():
        pixels = decode(file_of(Image.fromarray(disc)), Decoding(image_size, 1, crop))
        assert pixels.shape == (*image_size, 1)
    whole = decode(file_of(Image.fromarray(disc)), Decoding((24, 40), 1))[..., 0] > 127
    assert whole.any(axis=1).sum() == whole.any(axis=0).sum() == 20
    np.testing.assert_array_equal(whole, whole[::-1, ::-1])
