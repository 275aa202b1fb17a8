"""A web page for trying a trained model: sample step by step, compare samplers, inpaint with a brush.

    python scripts/playground.py --workdir=runs/x
    python scripts/playground.py --workdir=pretrained:digits
    python scripts/playground.py --workdir=runs/x --guide=runs/small
    python scripts/playground.py --workdir=runs/x --host=0.0.0.0 --port=8000

Only this machine can open the page, unless --host says otherwise: 0.0.0.0 admits everyone who can reach the port.
Visitors take turns on the device. Needs Gradio: pip install -r requirements-playground.txt
"""

import argparse
import logging
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    """Parses the flags, loads the model, and serves the page until it is stopped."""
    from ddpm_jax.errors import UserError
    from ddpm_jax.runtime.signals import POLL_S, polling, raise_if_stopped

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workdir", default="pretrained:digits", help="run to load (default: pretrained:digits)")
    about = "another run that the page offers as a guide, besides other checkpoints; may be repeated"
    parser.add_argument("--guide", action="append", default=[], metavar="WORKDIR", help=about)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (7860); 0 for any free one")
    parser.add_argument("--open", action="store_true", help="open the page in a browser on this machine")
    flags = parser.parse_args()
    if not 0 <= flags.port <= 65535:
        raise UserError(f"--port={flags.port} is not a port; expected 1 to 65535, or 0 for any free one.")
    try:
        socket.getaddrinfo(flags.host, None)
    except OSError as error:
        raise UserError(f"--host={flags.host} is not an address of this machine; try 127.0.0.1 or 0.0.0.0.") from error
    from scripts.play.model import Model

    model = Model(flags.workdir, flags.guide)
    with tempfile.TemporaryDirectory(prefix="playground-") as folder:
        # Uploads and Gradio's copies of them are deleted when the server stops.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            from scripts.play.page import LAUNCH_OPTIONS, build_page
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "gradio":
                raise
            raise UserError("The playground needs Gradio: pip install -r requirements-playground.txt") from error
        page = build_page(model, Path(folder))
        try:
            _, url, _ = page.launch(
                server_name=flags.host,
                server_port=flags.port or None,
                inbrowser=flags.open,
                prevent_thread_lock=True,
                quiet=True,
                **LAUNCH_OPTIONS,
            )
        except OSError as error:
            raise UserError(
                f"Cannot listen on {flags.host}:{flags.port} (is it in use?); choose another --port, or 0 for any."
            ) from error
        logging.getLogger("ddpm_jax").info("The playground is at %s (Ctrl-C stops it)", url)
        try:
            with polling():  # Gradio's block_thread catches KeyboardInterrupt and would end with 0.
                while True:
                    raise_if_stopped()
                    time.sleep(POLL_S)
        finally:
            page.close(verbose=False)


if __name__ == "__main__":
    from ddpm_jax.runtime.exit_codes import end_process, exit_code

    end_process(exit_code(main))
