"""The cloud side of Greengrass: components, deployments and core devices of the greengrassv2 API."""
