"""A synthetic CelebA in the official layout: Img/img_align_celeba.zip, Anno/list_attr_celeba.txt, Eval/….

Each face is a disc on a background; smiling ones are bright, those with eyeglasses have a dark bar.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NAMES = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair Blurry
Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young
"""
ATTRIBUTES = tuple(NAMES.split())


def write_celeba(folder: Path, count: int) -> Path:
    """Writes `count` faces of 178x218, four fifths of them for training; returns the folder."""
    draw = np.random.default_rng(0)
    attributes = draw.integers(0, 2, (count, len(ATTRIBUTES))) * 2 - 1
    names = [f"{number + 1:06d}.jpg" for number in range(count)]
    for place in ("Img", "Anno", "Eval"):
        (folder / place).mkdir(parents=True)
    with zipfile.ZipFile(folder / "Img" / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/", b"")
        for name, values in zip(names, attributes, strict=True):
            named = dict(zip(ATTRIBUTES, values > 0, strict=True))
            archive.writestr(f"img_align_celeba/{name}", _face(draw, named["Smiling"], named["Eyeglasses"]))
    rows = [
        f"{name} {' '.join(f'{value:2d}' for value in values)}" for name, values in zip(names, attributes, strict=True)
    ]
    (folder / "Anno" / "list_attr_celeba.txt").write_text(
        f"{count}\n{' '.join(ATTRIBUTES)} \n" + "\n".join(rows) + "\n"
    )
    splits = [f"{name} {(i >= count * 8 // 10) + (i >= count * 9 // 10)}\n" for i, name in enumerate(names)]
    (folder / "Eval" / "list_eval_partition.txt").write_text("".join(splits))
    return folder


def _face(draw: np.random.Generator, smiling: bool, eyeglasses: bool) -> bytes:
    image = Image.new("RGB", (178, 218), tuple(draw.integers(40, 100, 3).tolist()))
    canvas = ImageDraw.Draw(image)
    x, y, radius = 89 + int(draw.integers(-9, 9)), 121 + int(draw.integers(-9, 9)), int(draw.integers(40, 55))
    shade = 230 if smiling else 150
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), (shade, shade - 30, shade - 60))
    if eyeglasses:
        canvas.rectangle((x - radius, y - 20, x + radius, y - 4), (10, 10, 10))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
