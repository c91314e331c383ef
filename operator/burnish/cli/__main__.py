"""`python -m burnish.cli` is the same as `burnish`."""

import sys

from burnish.cli.main import main

sys.exit(main())
