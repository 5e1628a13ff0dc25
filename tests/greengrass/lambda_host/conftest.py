"""Lets the tests of this folder import `tiny_nucleus`, and greengrasssdk find the shims."""

import sys
from pathlib import Path

import foreshore.greengrass.lambda_host as lambda_host

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(lambda_host.__file__).parent / "shims"))
