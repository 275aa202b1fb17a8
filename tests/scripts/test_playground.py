"""scripts/playground.py: its functions, and the whole page in a real browser, with clicks and brush strokes."""

import io
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import UserError, load_run
from ddpm_jax.builders import SAMPLERS
from ddpm_jax.commands import cli
from ddpm_jax.config import config_of
from ddpm_jax.data.dataset import hold_out
from ddpm_jax.data.open import open_dataset
from ddpm_jax.generation.conditions import conditions_of
from ddpm_jax.reporting.images import CAPTION_HEIGHT, GAP, grid
from scripts.play import model as model_module
from scripts.play.image_to_image import Originals, describe_psnr, given_original, given_upload, picture_beside
from scripts.play.model import (
    DOWNLOADS_KEPT_S,
    EMA_WIDTHS,
    PICTURE_INTERVAL_S,
    Model,
    decode_upload,
    inpaint_brushed,
    iter_samplers,
    new_download,
    throttle,
)
from tests.data.pictures import encoded, noise
from tests.end_to_end.commands import RECIPE, ROOT
from tests.interop.toy import random_run

SCRIPT = ROOT / "scripts" / "playground.py"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CANVAS = 384
"""Side of the inpainting canvas in its own pixels."""
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def digits():
    return load_run("pretrained:digits")


def test_the_brush_becomes_a_mask_at_the_size_of_the_model(digits):
    image = digits.sample(1, seed=3, sampler="unipc")[0]
    brush = np.zeros((80, 80), np.uint8)
    brush[:, 44:] = 200  # Covers more than half of the fifth column of pixels.
    *_, last = inpaint_brushed(digits, image, brush, count=2, steps=4, resamples=2)
    np.testing.assert_array_equal(last.x_t[:, :, :4], image[None, :, :4].repeat(2, axis=0))
    assert (last.x_t[:, :, 4:] != image[None, :, 4:]).any()
    with pytest.raises(UserError, match="Nothing is painted"):
        inpaint_brushed(digits, image, np.zeros((80, 80)))
    with pytest.raises(UserError, match="Everything is painted"):
        inpaint_brushed(digits, image, np.ones((80, 80)))


def test_uploads_get_the_size_and_channels_of_the_model(digits, draw):
    pixels = noise(draw, 8, 8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(decode_upload(encoded(pixels), digits.config)[..., 0], grey)
    assert decode_upload(encoded(noise(draw, 50, 40)), digits.config).shape == (8, 8, 1)
    with pytest.raises(UserError, match="This file cannot be read"):
        decode_upload(b"no image", digits.config)


COLOUR = {"image_size": 8, "channels": 3, "source": "synthetic"}


def settings(condition, **sections):
    return config_of({"data": COLOUR, "model": {"condition": condition, "attention_resolutions": ()}, **sections})


def test_an_upload_of_exactly_the_low_size_is_the_condition_and_others_are_originals(draw):
    config = settings("low_resolution", degradation={"factor": 2})
    low, large = noise(draw, 4, 4), noise(draw, 8, 8)
    np.testing.assert_array_equal(given_upload(encoded(low), config).condition, low[None])
    assert given_upload(encoded(low), config).original is None
    given = given_upload(encoded(large), config)
    np.testing.assert_array_equal(given.original, large[None])
    np.testing.assert_array_equal(given.condition, conditions_of(config, large[None], seed=0))
    assert given_upload(encoded(noise(draw, 20, 30)), config).condition.shape == (1, 4, 4, 3)
    with pytest.raises(UserError, match="This file cannot be read"):
        given_upload(b"no image", config)


def test_the_colours_of_a_grey_upload_are_unknown(draw):
    config, colour = settings("grey"), noise(draw, 8, 8)
    grey = np.asarray(Image.fromarray(colour).convert("L"))
    given = given_upload(encoded(grey), config)
    np.testing.assert_array_equal(given.condition[0, ..., 0], grey)
    assert given.original is None and describe_psnr(colour[None], given.original) == ""
    given = given_upload(encoded(colour), config)
    assert describe_psnr(colour[None] ^ 1, given.original) == ", PSNR 48.1 dB"  # 20 log10(255)
    np.testing.assert_array_equal(given.condition[0, ..., 0], grey)


def test_the_brush_is_the_mask_of_a_condition(draw):
    config, image = settings("mask"), noise(draw, 8, 8)
    given, brush = given_upload(encoded(image), config), np.zeros((80, 80), np.uint8)
    np.testing.assert_array_equal(given.shown(config), image[None])
    brush[:, 40:] = 200
    masked = given.masked(brush, config)
    np.testing.assert_array_equal(masked.condition[0, ..., :3], image)
    np.testing.assert_array_equal(masked.condition[0, ..., 3], np.repeat([0] * 4 + [255] * 4, 8).reshape(8, 8).T)
    assert (masked.shown(config)[:, :, 4:] == 127).all()
    with pytest.raises(UserError, match="Nothing is painted"):
        given.masked(np.zeros((80, 80)), config)


def test_results_are_shown_in_rows_below_the_condition_and_the_original(draw):
    config = settings("mask")
    given = given_upload(encoded(noise(draw, 8, 8)), config)
    results = np.full((6, 8, 8, 3), 9, np.uint8)
    tile, caption = 64 + GAP, CAPTION_HEIGHT
    picture = picture_beside(given, results, config)
    assert picture.shape == (3 * (tile + GAP + caption), 4 * tile + GAP, 3)
    bottom = picture[-tile:-GAP]
    assert (bottom[:, GAP:tile] == 9).all() and (bottom[:, 2 * tile + GAP :] == 255).all()
    assert picture_beside(given._replace(original=None), results[:1], config).shape[1] == tile + GAP


def test_originals_are_held_out_images_in_turn():
    config = settings("grey", data=COLOUR | {"holdout": 0.1})
    dataset, originals = open_dataset(config), Originals(config)
    _, held = hold_out(dataset, 0.1)
    for number in (0, 1, len(held)):
        np.testing.assert_array_equal(originals[number], dataset.images[held[number % len(held)]])


def test_comparisons_refuse_unknown_samplers(digits):
    for names, message in (
        ([], "0 samplers are selected; expected 1 to 8"),
        (["dim"], "'dim' does not exist"),
        (["ddim:x"], "sampler:steps"),
    ):
        with pytest.raises(UserError, match=message):
            iter_samplers(digits, names, 2)


def test_pictures_are_sent_at_intervals_and_at_the_end(digits):
    sent, steps = [], []
    for step, send in throttle(digits.iter_steps(1, sampler="ddpm", steps=400)):
        if send:
            time.sleep(2 * PICTURE_INTERVAL_S)  # A slow browser.
            sent.append(time.monotonic())
            steps.append(step.done)
    assert steps[-1] == 400 and len(steps) > 2
    assert np.diff(sent)[:-1].min() >= 3 * PICTURE_INTERVAL_S * 0.99


def test_every_download_has_its_own_path_and_old_ones_are_deleted(tmp_path):
    paths = {new_download(tmp_path, "a.png") for _ in range(10)}
    assert len(paths) == 10
    old = min(paths)
    os.utime(old.parent, (0, time.time() - DOWNLOADS_KEPT_S - 1))
    new_download(tmp_path, "a.png")
    assert {path for path in paths if not path.parent.exists()} == {old}


def test_only_widths_that_snapshots_give_are_offered(tmp_path, monkeypatch):
    random_run(tmp_path / "x", optimizer={"ema_snapshots": 1})
    monkeypatch.setattr(model_module, "checkpoint_steps", lambda folder: [2, 16, 20])
    monkeypatch.setattr(model_module, "sealed_steps", lambda folder: list(range(1, 17)))
    model = Model(str(tmp_path / "x"))
    assert model.steps_with_widths == [16, 2] and model.ema_widths(20) == []
    assert model.ema_widths(16) == [width for width in EMA_WIDTHS if 0.03 <= width <= 0.23]  # docs/sampling.md
    assert 0 < len(model.ema_widths(2)) < len(model.ema_widths(16))
    assert model.guides(16) == ["checkpoint:20", "checkpoint:2"]


def test_a_guide_is_another_run_that_fits_and_stays_in_memory_with_the_model(tmp_path):
    for name in "xy":
        random_run(tmp_path / name)
    model = Model(str(tmp_path / "x"), [str(tmp_path / "y")])
    assert model.guides(0) == [str(tmp_path / "y")]
    run, guide = model.run(0, True), model.guide(str(tmp_path / "y"))
    assert model.run(0, True) is run and model.guide(str(tmp_path / "y")) is guide
    assert guide.workdir == tmp_path / "y" and model.guide("checkpoint:0") is run
    with pytest.raises(UserError, match="guide=pretrained:digits: its diffusion.steps is 1000, that of the model 8"):
        Model(str(tmp_path / "x"), ["pretrained:digits"])


def playground(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, timeout=120)


def test_a_missing_gradio_is_an_error_with_the_install_command(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "scripts.play.page", raising=False)
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setattr(sys, "argv", ["playground.py"])
    with pytest.raises(UserError, match=r"needs Gradio: pip install -r requirements-playground\.txt"):
        main()


@pytest.mark.slow
def test_bad_flags_exit_with_code_2_and_one_line(tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mistakes = {
            f"--port={port}": f"Cannot listen on 127.0.0.1:{port}",
            "--port=99999": "expected 1 to 65535",
            "--host=no.such.host.invalid": "is not an address of this machine",
            f"--workdir={tmp_path}/x": "no run",
            f"--guide={tmp_path}/x": "no run",
        }
        for flag, message in mistakes.items():
            done = playground(flag)
            assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def fake_model(config, names=()) -> Any:
    return SimpleNamespace(
        config=config,
        names=tuple(names),
        steps=[7],
        has_raw_params=True,
        steps_with_widths=[7],
        description=lambda step, ema, ema_width: "",
        run=lambda step, ema, ema_width: (step, ema, ema_width),
        ema_widths=lambda step: [0.05, 0.1],
        guides=lambda step: ["checkpoint:3"],
        guide=lambda name: f"run of {name}",
    )


@pytest.mark.parametrize(
    ("condition", "tabs", "shows"),
    [
        ("none", ["Sample", "Compare", "Inpaint"], "canvas"),
        ("mask", ["Image to image"], "canvas"),
        ("low_resolution", ["Image to image"], "condition"),
        ("grey", ["Image to image"], "condition"),
    ],
)
def test_the_tabs_fit_the_condition(tmp_path, condition, tabs, shows):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.page import build_page

    parts = build_page(fake_model(settings(condition)), tmp_path).get_config_file()["components"]
    assert [part["props"]["label"] for part in parts if part["type"] == "tabitem"] == tabs
    ids = {part["props"].get("elem_id") for part in parts}
    assert ids & {"canvas", "condition"} == {shows}


def test_visitors_take_turns_on_the_device(tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.page import build_page

    functions = build_page(fake_model(settings("none")), tmp_path).fns.values()
    limits = [function.concurrency_limit for function in functions if function.concurrency_id == "device"]
    assert len(limits) >= 3 and set(limits) == {1}  # Sample, compare, inpaint.


@pytest.mark.parametrize("objective", ["denoising", "consistency"])
def test_the_samplers_fit_the_objective(tmp_path, objective):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.controls import LABELS
    from scripts.play.page import build_page

    model = fake_model(settings("none", diffusion={"objective": objective}))
    parts = build_page(model, tmp_path).get_config_file()["components"]
    shown = {part["props"].get("elem_id"): part["props"] for part in parts}
    few = objective == "consistency"
    fitting = [name for name in SAMPLERS if (name == "consistency") == few]
    assert shown["sampler"]["choices"] == [(LABELS[name], name) for name in fitting]
    assert (shown["sampler"]["value"], shown["steps"]["value"]) == (("consistency", 2) if few else ("ddim", 50))
    assert {name.partition(":")[0] for _, name in shown["names"]["choices"]} <= set(fitting)
    assert len(shown["names"]["value"]) == 3
    assert ("canvas" in shown, shown["eta"]["visible"]) == (not few, not few)


def test_other_parameters_have_their_own_widths_and_guides(tmp_path):
    gradio = pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.controls import SharedControls

    fake = fake_model(settings("none"))
    fake.ema_widths = lambda step: [0.1] if step == 7 else []
    with gradio.Blocks():
        shared = SharedControls(fake, tmp_path)
    _, width, guide = shared._switch(7, True, "0.1", "checkpoint:3")
    assert (width["choices"], width["value"], width["visible"]) == (["as trained", "0.1"], "0.1", True)
    assert guide["value"] == "checkpoint:3"
    _, width, guide = shared._switch(5, True, "0.1", "checkpoint:7")
    assert (width["choices"], width["value"], guide["value"]) == (["as trained"], "as trained", "no guide")
    assert not shared._switch(7, False, "0.1", "no guide")[1]["visible"]
    assert shared.parse([7, False, "0.1", 5, None, 1.0, "no guide"])[0] == (7, False, None)
    # The guidance is shown for a model without labels once there is a guide, which 1 would ignore.
    for before, guide, after, visible in (
        (1, "checkpoint:3", 2, True),
        (3, "checkpoint:3", 3, True),
        (1, "no guide", 1, False),
    ):
        update = shared._guidance_update(before, guide)
        assert (update["value"], update["visible"]) == (after, visible)


@pytest.mark.parametrize(
    ("model", "names", "selected", "in_turn", "options"),
    [
        ({"classes": 3}, "abc", "each in turn", True, {"label": None, "guidance": 2.0}),
        ({"classes": 3}, "abc", "each in turn", False, {"label": None}),
        ({"classes": 3}, "abc", "b", False, {"label": "b", "guidance": 2.0}),
        ({"attributes": 3}, "abc", [], True, {"label": None}),
        ({"attributes": 3}, "abc", ["a", "c"], True, {"label": "a,c", "guidance": 2.0}),
        ({}, "", "each in turn", True, {}),
        ({"condition": "mask"}, "", "each in turn", True, {}),
        ({"condition": "mask", "dropped": 0.1}, "", "each in turn", True, {"guidance": 2.0}),
    ],
)
def test_controls_become_sampling_options(tmp_path, model, names, selected, in_turn, options):
    gradio = pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.controls import SharedControls

    train, model = {"condition_dropout": model.get("dropped", 0.0)}, {k: v for k, v in model.items() if k != "dropped"}
    config = config_of({"data": {"image_size": 8}, "model": {"attention_resolutions": (), **model}, "train": train})
    fake = fake_model(config, names)
    with gradio.Blocks():
        shared = SharedControls(fake, tmp_path)
    parsed = shared.parse([7, True, "0.1", 5, selected, 2.0, "no guide", "more"], in_turn=in_turn)
    assert parsed == ((7, True, 0.1), {"seed": 5, **options}, ["more"])
    _, guided, _ = shared.parse([7, True, "as trained", 5, selected, 2.0, "checkpoint:3"], in_turn=in_turn)
    assert guided == {"seed": 5, **options, "guidance": 2.0, "guide": "run of checkpoint:3"}
    with pytest.raises(UserError, match="The guide checkpoint:3 has no effect at guidance 1"):
        shared.parse([7, True, "as trained", 5, selected, 1, "checkpoint:3"])
    with pytest.raises(UserError, match="The seed is empty"):
        shared.parse([7, False, "as trained", None, selected, 2.0, "no guide"])


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (64, 3), (256, 3)])
def test_the_canvas_shows_each_pixel_as_a_square(draw, size, channels):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.components import canvas_size_of, canvas_value

    image = draw.integers(0, 256, (size, size, channels), np.uint8)
    model = {"multipliers": [1], "attention_resolutions": ()}
    side, _ = canvas_size_of(config_of({"data": {"image_size": size}, "model": model}))
    background = canvas_value(image, (side, side))["background"]
    assert background.shape == (side, side, 3)
    np.testing.assert_array_equal(background[:: side // size, :: side // size][..., :channels], image)


class Server:
    """The playground in another process."""

    def __init__(self, *flags: str):
        self.process = subprocess.Popen([sys.executable, SCRIPT, "--port=0", *flags], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]
                return
        raise AssertionError("".join(lines))

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        _, log = self.process.communicate(timeout=60)
        assert self.process.returncode == 130, log
        return log


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(browser):
    server = Server()
    yield server.url
    log = server.stop()
    # Gradio logs an error when a visitor leaves during a transfer; none may come from our own code.
    assert not re.search(rf'File "{ROOT}/(scripts|ddpm_jax)/', log), log


@pytest.fixture
def visit(browser, url):
    """Opens the page in a new window, and checks that it requests nothing from other machines."""
    requests, contexts = [], []

    def visit(size=DESKTOP, url=url):
        contexts.append(browser.new_context(viewport=size, has_touch=size is PHONE))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("#sampler")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [name for name in requests if not name.startswith((url, "data:", "blob:", "http://127.0.0.1"))] == []


def download(page, name: str) -> Image.Image:
    """The image behind a download button, once it is enabled."""
    page.wait_for_selector(f"#{name}:not([disabled])")
    with page.expect_download() as download:
        page.click(f"#{name}")
    return Image.open(io.BytesIO(download.value.path().read_bytes()))


def enter(page, field: str, value: object) -> None:
    page.fill(f"#{field} input[type=number]", str(value))
    page.press(f"#{field} input[type=number]", "Tab")


def choose(page, field: str, value: str) -> None:
    page.click(f"#{field} input")
    page.get_by_role("option", name=value, exact=True).click()


def stroke(page, points) -> None:
    """Paints along points, given as fractions of the side of the image."""
    canvas = page.locator("#canvas canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box = canvas.bounding_box()
    # The canvas is centred, and the toolbar shows its zoom.
    side = CANVAS * int(re.search(r"(\d+)%", page.inner_text("#canvas"))[1]) / 100
    left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
    for i, (x, y) in enumerate(points):
        page.mouse.move(left + x * side, top + y * side, steps=8)
        if i == 0:
            page.mouse.down()
    page.mouse.up()


@pytest.mark.slow
@pytest.mark.xdist_group("playground")
class TestPage:
    def test_the_sample_tab_gives_the_images_of_run_sample(self, visit, digits):
        page = visit()
        enter(page, "seed", 5)
        choose(page, "label", "7")
        enter(page, "guidance", 2)
        enter(page, "steps", 10)
        enter(page, "eta", 0.5)
        page.click("#sample")
        images = digits.sample(16, sampler="ddim", steps=10, eta=0.5, seed=5, label=7, guidance=2.0)
        pixels = np.asarray(download(page, "samples-png"))
        assert np.abs(pixels.astype(int) - grid(images)[..., 0]).max() <= 1
        assert "16 images, 10 steps" in page.inner_text("#samples-text")
        assert download(page, "samples-gif").n_frames == 11

    def test_pictures_change_while_sampling_until_it_is_stopped(self, visit):
        page = visit()
        choose(page, "sampler", "DDPM")
        page.wait_for_function("document.querySelector('#steps input[type=number]').value == '1000'")
        page.wait_for_selector("#eta", state="hidden")
        enter(page, "count", 64)  # So that sampling is still under way when it is stopped.
        page.click("#sample")
        seen = set()
        while len(seen) < 5:
            page.wait_for_function("seen => !seen.includes(document.querySelector('#samples img')?.src)", arg=[*seen])
            seen.add(page.get_attribute("#samples img", "src"))
        text = page.inner_text("#samples-text")
        assert re.fullmatch(r"Step \d+ of 1000, t = \d+", text)
        page.click("#stop-sample")
        page.wait_for_selector("#samples-text >> text=Stopped.")
        page.wait_for_timeout(1500)  # Enough for a step that was under way to overwrite it.
        # Gradio's own mark on an event that was cancelled during a step may stand above.
        assert page.inner_text("#samples-text").endswith("Stopped.") and page.is_disabled("#samples-png")
        enter(page, "count", 16)
        choose(page, "sampler", "UniPC")
        page.click("#sample")
        assert download(page, "samples-png").size == (266, 266)

    def test_a_comparison_has_a_row_for_each_sampler(self, visit):
        page = visit()
        page.get_by_role("tab", name="Compare").click()
        page.click("#compare")
        assert download(page, "comparison-png").size == (8 * 66 + 2, 3 * (66 + 2 + 14))
        rows = page.locator("#comparison-text tbody tr").all_inner_texts()
        assert [row.split()[:2] for row in rows] == [["ddim", "50"], ["ddim", "10"], ["unipc", "10"]]
        assert rows[0].split()[3] == "0.0" and float(rows[1].split()[3]) > 0

    def test_only_brushed_pixels_are_sampled_again(self, visit, digits):
        page = visit()
        page.get_by_role("tab", name="Inpaint").click()
        enter(page, "seed", 3)
        page.click("#sample-one")
        page.wait_for_timeout(3000)
        for x in (0.7, 0.8, 0.9):
            stroke(page, [(x, 0.05), (x, 0.95)])
        page.click("#inpaint")
        pixels = np.asarray(download(page, "inpainted-png"))
        original = grid(digits.sample(1, sampler="unipc", steps=20, seed=3, label=3))[2:66, 2:66, 0]
        for top, left in ((2, 2), (2, 68), (68, 2), (68, 68)):
            tile = pixels[top : top + 64, left : left + 64]
            assert np.abs(tile[:, :32].astype(int) - original[:, :32]).max() <= 1
            assert (tile[:, 40:] != original[:, 40:]).any()

    @pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
    def test_the_page_fits_the_window(self, visit, size):
        page = visit(size)
        for tab in ("Sample", "Compare", "Inpaint"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]

    def test_bad_values_show_messages(self, visit):
        page = visit()
        enter(page, "steps", 5000)
        assert page.wait_for_function("document.querySelector('#steps input[type=number]').value == '1000'")
        enter(page, "steps", 5)
        enter(page, "seed", -1)
        page.click("#sample")
        assert page.wait_for_selector("text=/sample.seed=-1 is out of range/")
        page.fill("#seed input", "")
        page.press("#seed input", "Tab")
        page.click("#sample")
        assert page.wait_for_selector("text=The seed is empty")
        page.get_by_role("tab", name="Compare").click()
        enter(page, "seed", 1)
        page.fill("#names input", "dim:5")
        page.press("#names input", "Enter")
        page.click("#compare")
        assert page.wait_for_selector("text=/'dim' does not exist/")
        page.get_by_role("tab", name="Inpaint").click()
        page.click("#inpaint")
        assert page.wait_for_selector("text=There is no image yet")
        page.click("#sample-one")
        page.wait_for_timeout(3000)
        page.click("#inpaint")
        assert page.wait_for_selector("text=Nothing is painted")

    def test_a_workdir_and_each_of_its_checkpoints(self, visit, tmp_path):
        options = ["--config.log.preview_every=0", "--config.train.steps=12", "--config.optimizer.learning_rate=1e-2"]
        options += ["--config.optimizer.ema_snapshots=6"]
        assert cli.main(["main.py", RECIPE, f"--workdir={tmp_path}/x", *options]) == 0
        server = Server(f"--workdir={tmp_path}/x")
        try:
            for step, ema in ((12, True), (10, False)):
                page = visit(url=server.url)
                assert not page.is_visible("#label") and not page.is_visible("#guidance")
                choose(page, "checkpoint", str(step))
                page.set_checked("#ema input", ema)
                kind = "EMA" if ema else "raw parameters"
                page.wait_for_selector(f"text=/step {step} \\({kind}\\)/")
                enter(page, "steps", 4)
                page.click("#sample")
                images = load_run(tmp_path / "x", step=step, ema=ema).sample(16, sampler="ddim", steps=4)
                assert np.abs(np.asarray(download(page, "samples-png")).astype(int) - grid(images)[..., 0]).max() <= 1
            page = visit(url=server.url)
            choose(page, "ema-width", "0.1")
            page.wait_for_selector("text=/step 12 \\(EMA of width 0.1\\)/")
            choose(page, "guide", "checkpoint:10")
            page.wait_for_selector("#guidance")
            enter(page, "steps", 4)
            page.click("#sample")
            run = load_run(tmp_path / "x", ema_width=0.1)
            images = run.sample(16, sampler="ddim", steps=4, guide="checkpoint:10", guidance=2.0)
            assert np.abs(np.asarray(download(page, "samples-png")).astype(int) - grid(images)[..., 0]).max() <= 1
        finally:
            server.stop()

    def test_an_image_to_image_run_paints_the_brushed_pixels_of_an_image_of_its_data(self, visit, tmp_path):
        config, *_ = random_run(tmp_path / "x", model={"condition": "mask"})
        server = Server(f"--workdir={tmp_path}/x")
        try:
            page = visit(url=server.url)
            page.click("#generate")
            assert page.wait_for_selector("text=There is no image yet")
            enter(page, "seed", 5)
            enter(page, "count", 2)
            page.click("#take")
            page.wait_for_timeout(3000)
            for x in (0.8, 0.9):
                stroke(page, [(x, 0.05), (x, 0.95)])
            page.click("#generate")
            picture = np.asarray(download(page, "results-png"))
            assert "PSNR" in page.inner_text("#results-text")
        finally:
            server.stop()
        # What a stroke covers depends on the zoom, so the mask is that of the picture.
        shown = picture[CAPTION_HEIGHT + GAP :, GAP:][4:64:8, 4:64:8]
        brush = shown == 127  # The image itself has none.
        assert 10 < np.count_nonzero(brush) <= 24
        given = given_original(Originals(config)[5], config).masked(brush, config)
        images = load_run(tmp_path / "x").sample(2, sampler="ddim", steps=8, seed=5, condition=given.condition)
        assert np.abs(picture.astype(int) - picture_beside(given, images, config)[..., 0]).max() <= 1
