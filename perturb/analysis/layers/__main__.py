"""`python -m perturb.analysis.layers`."""

import sys

from perturb.analysis.layers.layers import main

sys.exit(main())
