"""What of the greengrassv2 API is emulated."""

ROWS: list[tuple[str, str, str]] = [
    (
        "Component versions",
        "partly",
        "inline recipes, artifacts in S3 with their digests; a lambdaFunction and recipes in YAML out are NotEmulated",
    ),
    (
        "Deployments to things and thing groups",
        "partly",
        "with failure, update and validation policies, delivered to the cores of this edge; "
        "iotJobConfiguration and parentTargetArn are NotEmulated",
    ),
    ("Core devices, installed components, effective deployments", "yes", ""),
    ("Client device associations", "yes", ""),
    ("Tags", "yes", "of component versions, deployments and core devices"),
    ("AWS's public components", "no", "those that the core provides itself can be deployed; they are not listed"),
]
