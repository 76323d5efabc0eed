"""`python -m video_deblur.cli`."""

import sys

from .main import main

sys.exit(main())
