"""Synthetic: a room that cannot be loaded."""

import a_package_that_is_not_there  # noqa: F401
