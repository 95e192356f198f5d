"""Copied as `sitecustomize.py` into a folder of PYTHONPATH: Python then does not find small packages that are there."""

import importlib.metadata
import sys
from importlib.machinery import PathFinder

HIDDEN = {"datasets", "fvcore", "jsonargparse"}
_distribution = importlib.metadata.distribution


class Hiding:
    """Finds what `PathFinder` finds, but for hidden packages."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(*arguments, **settings):
        return PathFinder.find_distributions(*arguments, **settings)


def distribution(name):
    if name in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return _distribution(name)


sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
importlib.metadata.distribution = distribution
