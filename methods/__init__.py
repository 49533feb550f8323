"""One room a direction. Further folders of rooms may be named in TYCHO_METHODS, apart by ':'."""

import os

__path__ += [folder for folder in os.environ.get("TYCHO_METHODS", "").split(os.pathsep) if folder]
