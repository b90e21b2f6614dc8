"""Reading, checking and writing images: every format and every kind of damage a folder of photos holds."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dragkit import images

FEW = settings(deadline=None, max_examples=40, derandomize=True)


@pytest.fixture
def pixels() -> np.ndarray:
    """An 8-bit RGB picture, 5 high and 9 wide, no two pixels alike."""
    return np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(2, 0, 1)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_png_is_read_exactly(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = images.load_image(tmp_path / "a.png")
    assert image.dtype == torch.float32
    assert image.shape == (3, 5, 9)
    assert image.is_contiguous()
    torch.testing.assert_close(image, as_tensor(pixels), rtol=0, atol=0)


def test_a_string_path_is_accepted(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert images.load_image(str(tmp_path / "a.png")).shape == (3, 5, 9)


def test_size_cuts_the_central_square(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    torch.testing.assert_close(images.load_image(tmp_path / "a.png", 5), as_tensor(pixels[:, 2:7]), rtol=0, atol=0)


def test_reduction_is_antialiased(tmp_path):
    """White on a quarter of the pixels, just where a resize without antialiasing would look, averages to a quarter."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, 3::8] = stripes[:, 4::8] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    inner = images.load_image(tmp_path / "stripes.png", 8)[:, :, 1:-1]
    assert (inner - 0.25).abs().max() < 0.01


@pytest.mark.parametrize("size", [1, 7, 64])
def test_one_pixel_image(tmp_path, size):
    Image.new("RGB", (1, 1), (255, 0, 51)).save(tmp_path / "dot.png")
    assert images.load_image(tmp_path / "dot.png").flatten().tolist() == pytest.approx([1, 0, 0.2])
    large = images.load_image(tmp_path / "dot.png", size)
    assert large.shape == (3, size, size)
    torch.testing.assert_close(large, torch.tensor([1, 0, 0.2])[:, None, None].expand_as(large))


def test_resized_photo_stays_in_range(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (33, 47, 3), dtype=np.uint8) * 255
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for size in (20, 33, 90):
        images.validate_images(images.load_image(tmp_path / "noise.png", size)[None], eps=0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_composited_on_white(tmp_path, mode):
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (0, 0, 0, 255))
    suffix = "tif" if mode == "PA" else "png"
    try:
        half.convert(mode).save(tmp_path / f"a.{suffix}")
    except OSError:
        pytest.skip(f"this Pillow writes no {mode} file")
    assert images.load_image(tmp_path / f"a.{suffix}")[0, 0].tolist() == [1, 0]


def test_partial_transparency_mixes_with_white(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 51)).save(tmp_path / "a.png")
    assert images.load_image(tmp_path / "a.png").flatten().tolist() == pytest.approx([1, 0.8, 0.8], abs=1 / 255)


def test_palette_with_a_transparent_entry(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "keyed.png", transparency=0)
    assert images.load_image(tmp_path / "plain.png")[:, 0, 0].tolist() == [1, 0, 0]
    assert images.load_image(tmp_path / "keyed.png")[:, 0].T.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grayscale_becomes_three_equal_channels(tmp_path, mode):
    picture = Image.new("L", (2, 1))
    picture.putpixel((1, 0), 255)
    picture.convert(mode).save(tmp_path / "a.png")
    image = images.load_image(tmp_path / "a.png")
    assert image.shape == (3, 1, 2)
    assert image[:, 0].tolist() == [[0, 1]] * 3


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    assert images.load_image(tmp_path / "red.jpg").mean((1, 2)).tolist() == pytest.approx([1, 0, 0], abs=0.03)


def test_16_bit_gray_keeps_its_precision(tmp_path):
    values = np.array([[0, 1, 257, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        assert images.load_image(tmp_path / name)[1, 0].tolist() == pytest.approx(
            (values[0] / 65535).tolist(), rel=1e-6
        )


def test_16_bit_pgm(tmp_path):
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", 65535, 13107))
    assert images.load_image(tmp_path / "deep.pgm")[0, 0].tolist() == pytest.approx([1, 0.2])
    assert images.load_image(tmp_path / "deep.pgm", 1).flatten().tolist() == pytest.approx([1, 1, 1])


def test_16_bit_colour_png(tmp_path):
    """Pillow cannot write one; the file is put together by hand: one row, two pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 65535, 0, 32768, 13107, 52428, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    image = images.load_image(tmp_path / "deep.png")
    assert image[:, 0].T.flatten().tolist() == pytest.approx([1, 0, 0.5, 0.2, 0.8, 0], abs=1 / 255)


def test_float_tiff_only_in_the_agreed_range(tmp_path):
    Image.fromarray(np.array([[0, 0.25, 1]], np.float32)).save(tmp_path / "ok.tif")
    Image.fromarray(np.array([[0, 0.25, 300]], np.float32)).save(tmp_path / "wild.tif")
    assert images.load_image(tmp_path / "ok.tif")[2, 0].tolist() == [0, 0.25, 1]
    with pytest.raises(ValueError, match="no agreed white value"):
        images.load_image(tmp_path / "wild.tif")


def test_a_colour_space_without_a_formula_is_refused_with_its_name(tmp_path, monkeypatch):
    """LAB in older Pillow; newer ones convert it."""
    Image.new("LAB", (2, 2)).save(tmp_path / "a.tif")

    def refuse(_self, mode):
        raise ValueError(f"conversion to {mode} not supported")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(ValueError, match="colour space LAB"):
        images.load_image(tmp_path / "a.tif")


@pytest.mark.parametrize(("orientation", "turned"), [(3, lambda p: p[::-1, ::-1]), (6, lambda p: np.rot90(p, -1))])
def test_exif_orientation_is_applied(tmp_path, pixels, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = as_tensor(np.ascontiguousarray(turned(pixels)))
    torch.testing.assert_close(images.load_image(tmp_path / "a.png"), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_several_frames_are_refused(tmp_path, name):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue", "green")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"holds 3 frames.*seek\(0\)"):
        images.load_image(tmp_path / name)


def test_still_gif_and_phone_mpo_are_read(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "still.gif")
    assert images.load_image(tmp_path / "still.gif")[:, 0, 0].tolist() == [1, 0, 0]
    photo, map_ = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (8, 8), "blue")
    photo.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[map_])
    image = images.load_image(tmp_path / "phone.jpg")
    assert image.shape == (3, 16, 16)
    assert image.mean((1, 2)).tolist() == pytest.approx([1, 0, 0], abs=0.02)


# --- refusing ---------------------------------------------------------------------------------------------------------


def test_missing_empty_folder_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"image file not found: .*nowhere\.png"):
        images.load_image(tmp_path / "nowhere.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"empty\.png is empty"):
        images.load_image(tmp_path / "empty.png")
    with pytest.raises(ValueError, match=r"is a folder.*load_images"):
        images.load_image(tmp_path)
    (tmp_path / "text.png").write_text("no pixels here")
    with pytest.raises(ValueError, match=r"text\.png is not an image.*HEIC"):
        images.load_image(tmp_path / "text.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp"])
def test_cut_off_file(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.\w+ is (damaged|not an image)"):
        images.load_image(tmp_path / name)


def huge_png(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_decompression_bomb_is_refused_before_decoding(tmp_path, side):
    """60,000 a side is beyond Pillow's own limit, 10,001 only beyond ours."""
    (tmp_path / "bomb.png").write_bytes(huge_png(side))
    with pytest.raises(ValueError, match=r"too large.*100,000,000"):
        images.load_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("error")
def test_a_picture_near_the_limit_gives_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    Image.new("RGB", (6, 6)).save(tmp_path / "a.png")
    assert images.load_image(tmp_path / "a.png").shape == (3, 6, 6)


@pytest.mark.parametrize("size", [0, -3, 2.5, "64", True])
def test_bad_size(tmp_path, size):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="size must be a positive integer, got"):
        images.load_image(tmp_path / "a.png", size)


def test_unreadable_permissions_are_not_called_damage(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def refuse(*_args):
        raise PermissionError("not yours")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(PermissionError, match="not yours"):
        images.load_image(tmp_path / "a.png")


@pytest.fixture(scope="module")
def victims(tmp_path_factory) -> tuple[Path, list[bytes]]:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8))
    files = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        files.append(buffer.getvalue())
    return tmp_path_factory.mktemp("fuzz"), files


@pytest.mark.filterwarnings("ignore::UserWarning")
@FEW
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_a_value_error(victims, data):
    folder, files = victims
    raw = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "fuzz.img").write_bytes(bytes(raw[: data.draw(st.integers(1, len(raw)))]))
    try:
        image = images.load_image(folder / "fuzz.img")
    except ValueError as error:
        message = str(error)
    else:
        images.validate_images(image[None], eps=0)
        return
    assert "fuzz.img" in message


# --- many images ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, colour in (("b.png", "red"), ("a.jpg", "blue"), ("C.PNG", "lime"), (".hidden.png", "black")):
        Image.new("RGB", (12, 8), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "inner.png").mkdir()
    return tmp_path


def test_folder_is_read_in_the_order_of_names(folder):
    assert [p.name for p in images.list_images(folder)] == ["C.PNG", "a.jpg", "b.png"]
    batch = images.load_images(folder, 4)
    assert batch.shape == (3, 3, 4, 4)
    expected = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    torch.testing.assert_close(batch.mean((2, 3)), expected.float(), atol=0.02, rtol=0)


def test_list_of_paths_keeps_its_order(folder):
    batch = images.load_images([folder / "b.png", str(folder / "C.PNG")])
    assert batch[:, :, 0, 0].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert images.load_images(folder / "b.png").shape == (1, 3, 8, 12)


def test_differing_sizes_need_a_size(folder):
    Image.new("RGB", (6, 6)).save(folder / "z.png")
    with pytest.raises(ValueError, match=r"8 x 12 and .*z\.png is 6 x 6.*size="):
        images.load_images(folder)
    assert images.load_images(folder, 6).shape == (4, 3, 6, 6)


def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        images.load_images([])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        images.load_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="folder not found"):
        images.list_images(tmp_path / "nowhere")
    (tmp_path / "class_a").mkdir()
    with pytest.raises(ValueError, match=r"no image in .*sub-folders are not searched \(class_a"):
        images.load_images(tmp_path)


def test_one_damaged_file_in_a_folder_is_not_passed_over(folder):
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match=r"b\.png"):
        images.load_images(folder, 4)


# --- writing ----------------------------------------------------------------------------------------------------------


@FEW
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_png_round_trip_is_exact_to_8_bits(tmp_path_factory, height, width, seed):
    path = tmp_path_factory.mktemp("round") / "a.png"
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    assert images.save_image(image, path) == path
    back = images.load_image(path)
    assert (back - image).abs().max() <= 0.5 / 255 + 1e-6
    images.save_image(back, path)
    torch.testing.assert_close(images.load_image(path), back, rtol=0, atol=0)


def test_jpeg_by_suffix(tmp_path):
    ramp = torch.linspace(0, 1, 32).expand(3, 32, 32)
    images.save_image(ramp, tmp_path / "a.JPG")
    with Image.open(tmp_path / "a.JPG") as picture:
        assert picture.format == "JPEG"
    assert (images.load_image(tmp_path / "a.JPG") - ramp).abs().max() < 0.02


def test_jpeg_keeps_colour_at_full_resolution(tmp_path):
    stripes = torch.zeros(3, 16, 16)
    stripes[0, :, ::2] = stripes[2, :, 1::2] = 1
    images.save_image(stripes, tmp_path / "a.jpg")
    assert (images.load_image(tmp_path / "a.jpg") - stripes).abs().mean() < 0.05


def test_parents_are_made_and_nothing_else_is_left(tmp_path):
    images.save_image(torch.zeros(3, 2, 2), tmp_path / "new" / "er" / "a.png")
    assert [p.name for p in (tmp_path / "new" / "er").iterdir()] == ["a.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    images.save_image(torch.zeros(3, 2, 2), tmp_path / "a.png")

    def fail(_self, file, *_args, **_options):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        images.save_image(torch.ones(3, 2, 2), tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert images.load_image(tmp_path / "a.png").max() == 0


def test_gradients_and_half_precision_can_be_saved(tmp_path):
    images.save_image(torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True), tmp_path / "a.png")
    assert images.load_image(tmp_path / "a.png")[0, 0, 0] == pytest.approx(128 / 255)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 3, 4, 4), ValueError, r"image must have shape \(3, H, W\), got \(1, 3, 4, 4\).*images\[i\]"),
        (torch.zeros(4, 4), ValueError, r"shape \(3, H, W\)"),
        (torch.zeros(1, 4, 4), ValueError, "image must have shape"),
        (torch.full((3, 4, 4), 1.5), ValueError, r"image must lie in \[0, 1\]"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "image must be finite"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, r"x\.float\(\) / 255"),
        (np.zeros((3, 4, 4)), TypeError, "image must be a torch.Tensor"),
    ],
)
def test_what_save_image_refuses(tmp_path, image, error, message):
    with pytest.raises(error, match=message):
        images.save_image(image, tmp_path / "sub" / "a.png")
    assert not (tmp_path / "sub").exists()


def test_bad_target_paths(tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.jpg or \.jpeg"):
        images.save_image(torch.zeros(3, 2, 2), tmp_path / "a.gif")
    (tmp_path / "d.png").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        images.save_image(torch.zeros(3, 2, 2), tmp_path / "d.png")


# --- checking ---------------------------------------------------------------------------------------------------------


def test_valid_images_come_back_as_they_are():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert images.validate_images(x) is x
    images.validate_images(torch.full((1, 3, 1, 1), 1 + 5e-5))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([1, 2], TypeError, "photos must be a torch.Tensor.*got list"),
        (torch.zeros(1, 3, 2, 2, dtype=torch.int64), TypeError, r"floating point in \[0, 1\], got torch\.int64"),
        (torch.zeros(3, 2, 2), ValueError, r"got \(3, 2, 2\); for a single image pass x\[None\]"),
        (torch.zeros(1, 4, 4, 3), ValueError, "channels are last"),
        (torch.zeros(1, 1, 4, 4), ValueError, "expand"),
        (torch.zeros(0, 3, 4, 4), ValueError, r"\(0, 3, 4, 4\)"),
        (torch.tensor([0.0, float("inf")]).view(2, 1, 1, 1).expand(2, 3, 2, 2), ValueError, r"image\(s\) \[1\]"),
        (torch.tensor([float("nan"), 0.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2), ValueError, r"image\(s\) \[0\]"),
        (torch.full((1, 3, 2, 2), -1.0), ValueError, r"values from -1 to -1; .*\(x \+ 1\) / 2"),
        (torch.full((1, 3, 2, 2), 200.0), ValueError, "divided by 255"),
        (torch.full((1, 3, 2, 2), 1.001), ValueError, "clamp"),
    ],
)
def test_what_validate_images_refuses(x, error, message):
    with pytest.raises(error, match=message):
        images.validate_images(x, "photos")


# --- grid -------------------------------------------------------------------------------------------------------------


@FEW
@given(count=st.integers(1, 7), columns=st.integers(1, 9), gap=st.integers(0, 3))
def test_grid_places_every_image_in_reading_order(count, columns, gap):
    batch = (torch.arange(count).float() / 10)[:, None, None, None].expand(count, 3, 4, 5)
    sheet = images.grid(batch, columns, gap=gap)
    across = min(columns, count)
    down = -(-count // across)
    assert sheet.shape == (3, down * (4 + gap) + gap, across * (5 + gap) + gap)
    for i in range(count):
        row, column = divmod(i, across)
        top, left = gap + row * (4 + gap), gap + column * (5 + gap)
        assert (sheet[:, top : top + 4, left : left + 5] == batch[i]).all()
    assert (sheet == 1).sum() == sheet.numel() - batch.numel()


def test_grid_refuses():
    with pytest.raises(ValueError, match="columns must be a positive integer"):
        images.grid(torch.zeros(1, 3, 2, 2), 0)
    with pytest.raises(ValueError, match="gap must be"):
        images.grid(torch.zeros(1, 3, 2, 2), 1, gap=-1)
