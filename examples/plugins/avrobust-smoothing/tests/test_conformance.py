from avrobust_core.registry.components import Component
from avrobust_core.testing import ComponentSubject
from avrobust_core.testing.checklists import METRIC_CHECKS
import pytest
from avrobust_smoothing.plugin import avrobust_metrics
