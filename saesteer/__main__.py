"""`python -m saesteer`, and what torchrun starts."""

import sys

from saesteer.cli import main

sys.exit(main())
