"""python main.py --config=configs/digits.py --workdir=runs/digits (see --help)."""

import signal
import sys

if __name__ == "__main__":
    # Until the command takes the signal over: a Ctrl-C during the imports ends without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        import jax  # noqa: F401
    except ValueError as error:  # JAX's, for a variable such as JAX_ENABLE_X64=maybe.
        print(f"{error}; correct that variable of the environment, or unset it.", file=sys.stderr)
        sys.exit(2)
    # Processes that decode images import this file too, and need nothing of the rest.
    from ddpm_jax.commands.cli import command

    command()
