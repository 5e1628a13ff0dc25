"""What the tests of the whole room share with those of its IPC."""

from tests.greengrass.ipc.conftest import rig, run

__all__ = ["rig", "run"]
