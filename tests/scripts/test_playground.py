"""scripts/playground.py as visitors meet it: in a real browser, by clicks and strokes of the brush."""

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

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import UserError, load_run
from ddpm_jax.commands import cli
from ddpm_jax.config import config_of
from ddpm_jax.reporting.images import grid
from scripts.play.model import KEPT_SECONDS, PACE, fitted, inpainted, iterations, new_file, paced
from tests.data.pictures import encoded, noise
from tests.end_to_end.commands import RECIPE, ROOT

SCRIPT = ROOT / "scripts" / "playground.py"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CANVAS = 384
"""The side of the square that one paints on, in its own pixels."""
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def digits():
    return load_run("pretrained:digits")


def test_the_brush_becomes_a_mask_of_the_models_pixels(digits):
    image = digits.sample(1, seed=3, sampler="unipc")[0]
    painted = np.zeros((80, 80), np.uint8)
    painted[:, 44:] = 200  # From the middle of a column of pixels on: more than half of it is covered.
    *_, last = inpainted(digits, image, painted, count=2, steps=4, resamples=2)
    np.testing.assert_array_equal(last.x_t[:, :, :4], image[None, :, :4].repeat(2, axis=0))
    assert (last.x_t[:, :, 4:] != image[None, :, 4:]).any()
    with pytest.raises(UserError, match="Nothing is painted"):
        inpainted(digits, image, np.zeros((80, 80)))
    with pytest.raises(UserError, match="All is painted"):
        inpainted(digits, image, np.ones((80, 80)))


def test_a_visitors_file_becomes_an_image_as_the_models_are(digits, draw):
    pixels = noise(draw, 8, 8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(fitted(encoded(pixels), digits.config)[..., 0], grey)
    assert fitted(encoded(noise(draw, 50, 40)), digits.config).shape == (8, 8, 1)
    with pytest.raises(UserError, match="This file cannot be read"):
        fitted(b"no image", digits.config)


def test_comparisons_name_what_they_do_not_know(digits):
    for names, words in (
        ([], "0 samplers are chosen; expected 1 to 8"),
        (["dim"], "'dim' does not exist"),
        (["ddim:x"], "sampler:steps"),
    ):
        with pytest.raises(UserError, match=words):
            iterations(digits, names, 2)


def test_pictures_are_sent_at_a_pace_that_a_browser_keeps(digits):
    sent = []
    last = 0
    for moment, send in paced(digits.iter_steps(1, sampler="ddpm", steps=400)):
        if send:
            time.sleep(2 * PACE)  # A slow browser.
            sent, last = [*sent, time.monotonic()], moment.done
    assert last == 400 and len(sent) > 2
    assert np.diff(sent)[:-1].min() >= 3 * PACE * 0.99


def test_no_two_visitors_share_a_file(tmp_path):
    given = {new_file(tmp_path, "a.png") for _ in range(10)}
    assert len(given) == 10
    old = min(given)
    os.utime(old.parent, (0, time.time() - KEPT_SECONDS - 1))
    new_file(tmp_path, "a.png")
    assert {path for path in given if not path.parent.exists()} == {old}


def playground(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, timeout=120)


def test_without_gradio_one_line_says_what_to_install(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "scripts.play.page", raising=False)
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setattr(sys, "argv", ["playground.py"])
    with pytest.raises(UserError, match=r"needs Gradio: pip install -r requirements-playground\.txt"):
        main()


@pytest.mark.slow
def test_what_cannot_be_served_is_one_line_with_code_2(tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mistakes = {
            f"--port={port}": f"Cannot listen on 127.0.0.1:{port}",
            "--port=99999": "expected 1 to 65535",
            "--host=no.such.host.invalid": "is no address of this machine",
            f"--workdir={tmp_path}/x": "no run",
        }
        for flag, words in mistakes.items():
            done = playground(flag)
            assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("model", "names", "chosen", "in_turn", "options"),
    [
        ({"classes": 3}, "abc", "each in turn", True, {"label": None, "guidance": 2.0}),
        ({"classes": 3}, "abc", "each in turn", False, {"label": None}),
        ({"classes": 3}, "abc", "b", False, {"label": "b", "guidance": 2.0}),
        ({"attributes": 3}, "abc", [], True, {"label": None}),
        ({"attributes": 3}, "abc", ["a", "c"], True, {"label": "a,c", "guidance": 2.0}),
        ({}, "", "each in turn", True, {}),
    ],
)
def test_what_is_chosen_becomes_options_that_sampling_takes(tmp_path, model, names, chosen, in_turn, options):
    gradio = pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.page import Shared

    config = config_of({"data": {"image_size": 8}, "model": {"attention_resolutions": (), **model}})
    known = SimpleNamespace(
        config=config, names=tuple(names), steps=[7], has_raw=True, about=lambda *which: "", at=lambda *which: which
    )
    with gradio.Blocks():
        shared = Shared(known, tmp_path)
    run, asked, others = shared.asked([7, False, 5, chosen, 2.0, "more"], in_turn=in_turn)
    assert (run, asked, others) == ((7, False), {"seed": 5, **options}, ["more"])
    with pytest.raises(UserError, match="The seed is empty"):
        shared.asked([7, False, None, chosen, 2.0])


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (64, 3), (256, 3)])
def test_what_one_paints_on_shows_each_pixel_as_a_square(draw, size, channels):
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    from scripts.play.page import CANVAS, _to_paint_on

    image = draw.integers(0, 256, (size, size, channels), np.uint8)
    side = size * max(1, CANVAS // size)
    shown = _to_paint_on(image, side)["background"]
    assert shown.shape == (side, side, 3)
    np.testing.assert_array_equal(shown[:: side // size, :: side // size][..., :channels], image)


class Served:
    """The playground in a process of its own."""

    def __init__(self, *flags: str):
        self.process = subprocess.Popen([sys.executable, SCRIPT, "--port=0", *flags], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.address = found[0]
                return
        raise AssertionError("".join(lines))

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        _, rest = self.process.communicate(timeout=60)
        assert self.process.returncode == 130, rest
        return rest


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -r requirements-playground.txt")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("There is no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(browser):
    served = Served()
    yield served.address
    told = served.stop()
    # Gradio's server tells of visitors who leave in the middle of a picture; nothing of ours may fail.
    assert not re.search(rf'File "{ROOT}/(scripts|ddpm_jax)/', told), told


@pytest.fixture
def visit(browser, address):
    """Opens the page in a window of its own, which may ask nothing of any other machine."""
    asked, contexts = [], []

    def visit(size=DESKTOP, address=address):
        contexts.append(browser.new_context(viewport=size, has_touch=size is PHONE))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#draw")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:", "http://127.0.0.1"))] == []


def saved(page, name: str) -> Image.Image:
    """What a download button gives, once it can be clicked."""
    page.wait_for_selector(f"#{name}:not([disabled])")
    with page.expect_download() as download:
        page.click(f"#{name}")
    return Image.open(io.BytesIO(download.value.path().read_bytes()))


def say(page, field: str, value: object) -> None:
    page.fill(f"#{field} input[type=number]", str(value))
    page.press(f"#{field} input[type=number]", "Tab")


def choose(page, field: str, value: str) -> None:
    page.click(f"#{field} input")
    page.get_by_role("option", name=value, exact=True).click()


def stroke(page, points) -> None:
    """Paints along points, given as shares of the image's side."""
    canvas = page.locator("#canvas canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box = canvas.bounding_box()
    # The square stands in the middle, as large as the toolbar says.
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
    def test_a_click_draws_what_sample_draws(self, visit, digits):
        page = visit()
        say(page, "seed", 5)
        choose(page, "label", "7")
        say(page, "guidance", 2)
        say(page, "steps", 10)
        say(page, "eta", 0.5)
        page.click("#draw")
        images = digits.sample(16, sampler="ddim", steps=10, eta=0.5, seed=5, label=7, guidance=2.0)
        drawn = np.asarray(saved(page, "drawn-png"))
        assert np.abs(drawn.astype(int) - grid(images)[..., 0]).max() <= 1
        assert "16 images, 10 steps" in page.inner_text("#drawn-text")
        assert saved(page, "drawn-gif").n_frames == 11

    def test_one_sees_it_come_out_of_the_noise_and_can_stop_it(self, visit):
        page = visit()
        choose(page, "sampler", "DDPM")
        page.wait_for_function("document.querySelector('#steps input[type=number]').value == '1000'")
        page.wait_for_selector("#eta", state="hidden")
        page.click("#draw")
        seen = set()
        while len(seen) < 5:
            page.wait_for_function("seen => !seen.includes(document.querySelector('#drawn img')?.src)", arg=[*seen])
            seen.add(page.get_attribute("#drawn img", "src"))
        text = page.inner_text("#drawn-text")
        assert re.fullmatch(r"Step \d+ of 1000, t = \d+", text)
        page.click("#stop-draw")
        page.wait_for_timeout(1500)
        stopped = page.inner_text("#drawn-text")
        page.wait_for_timeout(1500)
        assert page.inner_text("#drawn-text") == stopped == "Stopped." and page.is_disabled("#drawn-png")
        choose(page, "sampler", "UniPC")
        page.click("#draw")
        assert saved(page, "drawn-png").size == (266, 266)

    def test_visitors_take_turns(self, visit):
        first, second = visit(), visit()
        choose(first, "sampler", "DDPM")
        first.wait_for_function("document.querySelector('#steps input[type=number]').value == '1000'")
        first.click("#draw")
        first.wait_for_selector("#drawn img")
        second.click("#draw")
        second.wait_for_selector("text=/queue: \\d+\\/\\d+/")
        second.wait_for_selector("#drawn img")
        assert first.is_enabled("#drawn-png")  # The first was done before the second began.
        second.wait_for_selector("#drawn-png:not([disabled])")

    def test_samplers_are_compared_in_rows(self, visit):
        page = visit()
        page.get_by_role("tab", name="Compare samplers").click()
        page.click("#compare")
        assert saved(page, "compared-png").size == (8 * 66 + 2, 3 * (66 + 2 + 14))
        rows = page.locator("#compared-text tbody tr").all_inner_texts()
        assert [row.split()[:2] for row in rows] == [["ddim", "50"], ["ddim", "10"], ["unipc", "10"]]
        assert rows[0].split()[3] == "0.0" and float(rows[1].split()[3]) > 0

    @pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
    def test_the_brush_says_what_is_drawn_anew(self, visit, digits, size):
        page = visit(size)
        page.get_by_role("tab", name="Inpaint").click()
        say(page, "seed", 3)
        page.click("#fresh")
        page.wait_for_timeout(3000)
        for x in (0.7, 0.8, 0.9):
            stroke(page, [(x, 0.05), (x, 0.95)])
        page.click("#inpaint")
        pixels = np.asarray(saved(page, "inpainted-png"))
        original = grid(digits.sample(1, sampler="unipc", steps=20, seed=3, label=3))[2:66, 2:66, 0]
        for top, left in ((2, 2), (2, 68), (68, 2), (68, 68)):
            tile = pixels[top : top + 64, left : left + 64]
            assert np.abs(tile[:, :32].astype(int) - original[:, :32]).max() <= 1
            assert (tile[:, 40:] != original[:, 40:]).any()

    @pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
    def test_nothing_is_wider_than_the_window(self, visit, size):
        page = visit(size)
        for tab in ("Draw", "Compare samplers", "Inpaint"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]

    def test_bad_values_get_messages(self, visit):
        page = visit()
        say(page, "steps", 5000)
        assert page.wait_for_function("document.querySelector('#steps input[type=number]').value == '1000'")
        say(page, "steps", 5)
        say(page, "seed", -1)
        page.click("#draw")
        assert page.wait_for_selector("text=/sample.seed=-1 is out of range/")
        page.fill("#seed input", "")
        page.press("#seed input", "Tab")
        page.click("#draw")
        assert page.wait_for_selector("text=The seed is empty")
        page.get_by_role("tab", name="Compare samplers").click()
        say(page, "seed", 1)
        page.fill("#names input", "dim:5")
        page.press("#names input", "Enter")
        page.click("#compare")
        assert page.wait_for_selector("text=/'dim' does not exist/")
        page.get_by_role("tab", name="Inpaint").click()
        page.click("#inpaint")
        assert page.wait_for_selector("text=There is no image yet")
        page.click("#fresh")
        page.wait_for_timeout(3000)
        page.click("#inpaint")
        assert page.wait_for_selector("text=Nothing is painted")

    def test_a_run_of_ones_own_and_its_checkpoints(self, visit, tmp_path):
        options = ["--config.log.preview_every=0", "--config.train.steps=12", "--config.optimizer.learning_rate=1e-2"]
        assert cli.main(["main.py", RECIPE, f"--workdir={tmp_path}/x", *options]) == 0
        served = Served(f"--workdir={tmp_path}/x")
        try:
            for step, ema in ((12, True), (10, True), (10, False)):
                page = visit(address=served.address)
                assert not page.is_visible("#label") and not page.is_visible("#guidance")
                choose(page, "checkpoint", str(step))
                page.set_checked("#ema input", ema)
                which = "average" if ema else "raw parameters"
                page.wait_for_selector(f"text=/step {step} \\({which}\\)/")
                say(page, "steps", 4)
                page.click("#draw")
                images = load_run(tmp_path / "x", step=step, ema=ema).sample(16, sampler="ddim", steps=4)
                assert np.abs(np.asarray(saved(page, "drawn-png")).astype(int) - grid(images)[..., 0]).max() <= 1
        finally:
            served.stop()
