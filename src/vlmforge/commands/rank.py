"""What a rank does with its end: vlmforge as its parent prints one message for all ranks, an agent wants the code."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from vlmforge.commands.request import Request
from vlmforge.errors import EXIT_BUG, EXIT_INTERRUPTED, VlmforgeError
from vlmforge.parallel.launch import report_error
from vlmforge.parallel.notes import note_end


def run_as_rank(request: Request, work: Callable[[Request], int]) -> int:
    """Do the work of a verb; where there is a parent, leave an error to it.

    Returns:
        The exit code.

    Raises:
        VlmforgeError: as `work` does, where no parent prints it.
    """
    code = EXIT_BUG
    try:
        code = work(request)
        return code
    except VlmforgeError as error:
        code = error.exit_code
        report = f"{traceback.format_exc()}\n{error.report()}" if request.debug else error.report()
        if report_error(error.exit_code, report):
            return error.exit_code
        raise
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        raise
    except Exception:
        if report_error(EXIT_BUG, traceback.format_exc()):
            return EXIT_BUG
        raise
    finally:
        note_end(code)
