"""Edits faces on a page in the browser.

python app.py [--checkpoint=DIR] [--port=7860] [--host=127.0.0.1]

Drop a photograph, choose regions of the face, and see them restyled, reshaped, or in the style of
another photograph; download the result, and the command that makes it again. The page is served to
this computer alone unless --host says otherwise, asks no other computer for anything, and keeps no
photograph longer than its page is open. It needs `pip install '.[app]'`.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags

_SAMPLES = Path(__file__).parent / "samples"


def define_flags() -> flags.FlagValues:
    """This program's flags, apart from absl's global ones."""
    values = flags.FlagValues()
    new = {"flag_values": values}
    flags.DEFINE_string(
        "checkpoint", None, "A model directory or training workdir; by default our own.", **new
    )
    flags.DEFINE_integer(
        "port", 7860, "Where the page is served.", lower_bound=0, upper_bound=65535, **new
    )
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "The address to listen at: by default this computer's own, which no other can reach; "
        "0.0.0.0 lets in whoever can reach this one.",
        **new,
    )
    flags.DEFINE_boolean("help", False, "Show this text.", short_name="h", **new)
    return values


def serve_page(options: flags.FlagValues) -> None:
    """Loads the model and serves the page until it is stopped."""
    import l2sae_jax as l2
    from l2sae_jax.compilation_cache import keep_compiled_programs
    from l2sae_jax.data.images import find_images

    keep_compiled_programs()
    with ThreadPoolExecutor() as pool:  # Gradio takes as long to import as the model to load
        loading = pool.submit(l2.load, options.checkpoint)
        try:
            from l2sae_jax.app.server import serve
        except ImportError as error:
            raise ValueError(f"the page needs more: pip install '.[app]' ({error})") from error
        model = loading.result()
    samples = find_images(_SAMPLES) if _SAMPLES.is_dir() else []
    serve(model, options.checkpoint, options.host, options.port, samples)


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    options = define_flags()
    try:
        superfluous = options(argv)[1:]
        if options.help:
            print(f"{__doc__}\n{options.get_help()}")
            return 0
        if superfluous:
            raise ValueError(
                f"{superfluous[0]!r} is not a flag: photographs are dropped on the page"
            )
        serve_page(options)
    except (ValueError, OSError, flags.Error) as error:
        print(f"app.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))
