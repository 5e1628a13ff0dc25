"""What of the greengrassv2 API is emulated."""

ROWS: list[tuple[str, str, str]] = [
    (
        "Component versions",
        "yes",
        "inline recipes with artifacts in S3 and their digests; Lambda functions (Python) become generic components on "
        "the Lambda host, for classic and lite; DEPLOYABLE as soon as CreateComponentVersion returns; "
        "what a Lambda function can't carry over is a WARN, execArgs answer NotEmulated; an artifact has one "
        "kind of URL, whatever endpoint types are asked for",
    ),
    (
        "Deployments to things and thing groups",
        "partly",
        "policies, rollouts, abort criteria, time limits, revisions, cancellation; delivered to this edge's cores; "
        "a group's deployment is COMPLETED when all its cores are, and ACTIVE again when one joins; what a group "
        "brought goes with the next deployment after the core left it; "
        "parentTargetArn is NotEmulated; the IoT job of a group's "
        "deployment shows it to the iot API and is not read by the core",
    ),
    (
        "Core devices, installed components, effective deployments",
        "yes",
        "seen as they change, where AWS's cores report at times; lastInstallationSource of what a local deployment "
        "changed later stays the cloud deployment's",
    ),
    ("Client device associations, connectivity information, service role", "yes", "the role is kept, not asked"),
    ("Tags", "yes", "of component versions, deployments and core devices"),
    ("AWS's public components", "partly", "those that the core itself stands for, one version each"),
]
