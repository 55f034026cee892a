"""Nearest neighbours: exact where it is affordable, approximate and audited where it is not."""

from avrobust_geometry.knn.by_class import NearestByClass, nearest_by_class
from avrobust_geometry.knn.exact import Nearest
from avrobust_geometry.knn.search import nearest

__all__ = ["Nearest", "NearestByClass", "nearest", "nearest_by_class"]
