"""`python -m perturb.analysis.landscape`."""

import sys

from perturb.analysis.landscape.landscape import main

sys.exit(main())
