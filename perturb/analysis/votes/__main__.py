"""`python -m perturb.analysis.votes`."""

import sys

from perturb.analysis.votes.votes import main

sys.exit(main())
