"""The operations table of the greengrassv2 API; what is not in it answers NotEmulated."""

from __future__ import annotations

from foreshore.greengrass.cloud.components import Components
from foreshore.greengrass.cloud.cores import Cores
from foreshore.greengrass.cloud.deployments import Deployments
from foreshore.shapes.service_model import Service, ServiceModel


def control_plane(components: Components, deployments: Deployments, cores: Cores) -> Service:
    """Join the parts with the service's model."""
    table = {**components.operations(), **deployments.operations(), **cores.operations()}
    return Service(ServiceModel.load("greengrassv2"), table)
