import os

import pytest
from golden_files import Golden, golden_folder

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may ask the network by accident


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden(golden_folder())
