"""The tests. A package of its own, because a dependency may install one of this name."""
