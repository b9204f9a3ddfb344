"""`python -m vlmforge` is the command."""

import sys

from vlmforge.cli import main

sys.exit(main())
