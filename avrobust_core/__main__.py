"""`python -m avrobust_core` is the command `avrobust`."""

import sys

from avrobust_core.cli import main

sys.exit(main())
