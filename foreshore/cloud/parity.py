"""What the AWS endpoint emulates, forwards and refuses."""

ROWS: list[tuple[str, str, str]] = [
    (
        "DynamoDB, S3, SQS, SNS, Kinesis, Firehose, CloudWatch, Logs, Secrets Manager, IAM, STS, Step Functions",
        "partly",
        "forwarded byte for byte to the backend (MiniStack by default); its own limits apply",
    ),
    (
        "State of the backend after kill -9",
        "no",
        "MiniStack writes its state on a clean stop only: what it held since then is lost (S3 objects stay); the "
        "templates' resources are made again under the same names",
    ),
    (
        "SigV4 signatures",
        "partly",
        "the credential scope routes a request; signatures are not verified on the endpoint",
    ),
    (
        "SAM and CloudFormation templates",
        "partly",
        "SAM is expanded by aws-sam-translator; our resource types are made by the rooms, the rest by the backend's "
        "CloudFormation; a type that nobody makes is an error",
    ),
    (
        "Properties of our resource types",
        "partly",
        "one that is not acted on is named as a WARN and by `foreshore dev`, or refused when the resource can't work "
        "without it (file systems, images, tenants of functions, WebSocket APIs)",
    ),
    (
        "EventBridge rules and schedules, SNS and S3 notifications, log subscriptions, secret rotation, "
        "user pool triggers, Firehose transformations to a function",
        "no",
        "refused when a template or a request has them",
    ),
    ("API Gateway control plane (apigateway, apigatewayv2)", "no", "NotEmulated; HttpApi in a template works"),
    (
        "Values between stacks",
        "partly",
        "Fn::ImportValue takes the exports of the project's templates that were deployed before; no other stack's. A "
        "parameter without a value takes the output of the same name of such a template",
    ),
]
