"""What ``fanogan`` and ``python -m fanogan`` run; Ctrl-C ends it with one line and status 130.

Nothing heavy is imported before Ctrl-C is taken over.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

STOPPED = 130  # 128 and the number of SIGINT, as shells have it
SHOW_CURSOR = "\x1b[?25h"
CATCHING = "<frozen importlib._bootstrap>", ".pyx"

asked = False


def main() -> None:
    """Run the command that was typed."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, _on_ctrl_c)
        sys.unraisablehook = _on_unraisable
    try:
        from fanogan.cli import main as run

        run()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done
    except BaseException as error:
        if not (asked or isinstance(error, KeyboardInterrupt)):
            raise
        _end(str(error) if isinstance(error, KeyboardInterrupt) else "")


def _on_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, so that all is tidied up, where that can't be lost.

    Libraries catch it while they are being imported, and in code compiled by Cython, as
    imagecodecs. There, and when it is asked for twice, the process ends at once; like a kill that
    leaves nothing half-written under a final name.
    """
    global asked
    catching = frame
    while catching and not catching.f_code.co_filename.endswith(CATCHING):
        catching = catching.f_back
    if asked or catching:
        _end()
    asked = True
    raise KeyboardInterrupt


def _on_unraisable(unraisable: Any) -> None:
    """End where Python would drop KeyboardInterrupt, as within ``__del__``."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(unraisable)


def _end(line: str = "") -> NoReturn:
    """Print the line, and end without the interpreter's own end, which waits for threads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes the first speaks
            text = (line or "stopped") + "\n" + (SHOW_CURSOR if os.isatty(1) else "")
            os.write(1, text.encode(errors="backslashreplace"))
    finally:
        os._exit(STOPPED)


if __name__ == "__main__":
    main()
