"""The command as a shell sees it."""

import subprocess
import sys


def test_a_reader_that_leaves_early_hears_no_complaint() -> None:
    # `show` prints more than `head` reads; the pipe is closed before it is written to.
    show = subprocess.Popen(
        [sys.executable, "-m", "vlmforge", "show", "recipe=quickstart"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert show.stdout is not None
    show.stdout.close()
    _, complaint = show.communicate()
    assert (show.returncode, complaint) == (141, b"")
