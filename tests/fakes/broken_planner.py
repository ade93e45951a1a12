"""A user's module that imports a package which is not installed."""

import no_such_package  # type: ignore[import-not-found]  # noqa: F401
