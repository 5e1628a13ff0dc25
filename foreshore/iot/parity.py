"""What IoT Core's services emulate, for docs/parity.md: the MQTT broker and the rules have tables of their own."""

from __future__ import annotations

ROWS: list[tuple[str, str, str]] = [
    (
        "Things, thing types, principals",
        "yes",
        "CRUD, versions, limits of 3 and 50 attributes, exclusive principals. A deprecated type can be deleted after "
        "5 minutes, as on AWS. Propagating attributes (mqtt5Configuration) are kept, not added to messages.",
    ),
    ("Static thing groups", "yes", "A tree of at most 7, at most 10 groups a thing, one group a hierarchy."),
    (
        "Dynamic thing groups",
        "yes",
        "Members are what the query finds at the moment it is asked, without the index's delay. "
        "overrideDynamicGroups is accepted and has no effect. A template's group switches indexing on where it is off.",
    ),
    ("Billing groups, tags", "yes", "Tags are kept for every kind of resource; there is no billing."),
    (
        "Fleet indexing: search and aggregations",
        "partly",
        "Registry, groups, connectivity and shadows; terms, wildcards, ranges, comparisons, AND, OR, NOT, parentheses. "
        "Not: locations, Device Defender violations, custom fields' types (values compare by what they are).",
    ),
    ("Fleet metrics", "no", "Need CloudWatch."),
    (
        "Certificates",
        "yes",
        "Keys, CSR, registration with and without CA, CA registration with registration code or SNI_ONLY, revocation, "
        "transfer. Valid until the end of 2049, as AWS's, but signed by the local CA. A certificate that is no longer "
        "ACTIVE loses its connections at once (on AWS within minutes). A transfer is accepted or rejected in the same "
        "account.",
    ),
    (
        "Just-in-time registration",
        "yes",
        "PENDING_ACTIVATION and the event on $aws/events/certificates/registered/<CA id>; the first connection is "
        "refused, as on AWS.",
    ),
    (
        "Provisioning templates, RegisterThing",
        "partly",
        "Things, certificates, policies, override settings, device configuration; Ref, Join, Select, Split, Sub, "
        "FindInMap. Other functions answer NotEmulated. provisioningRoleArn is kept, not asked. A refusal half way "
        "may leave the thing.",
    ),
    (
        "Bulk registration",
        "yes",
        "A task ends as Failed when the service stops under it. Reports go to the input's bucket, under the task's id.",
    ),
    (
        "Fleet provisioning",
        "partly",
        "The error codes on the rejected topics are chosen, AWS lists none. "
        "By claim and by trusted user, over MQTT in JSON and CBOR, with hooks (5 s); an ownership token "
        "serves the principal that got it, for an hour. A trusted user's claim "
        "lasts 5 minutes and carries a policy ProvisioningClaim-<template> that is listed with the others.",
    ),
    (
        "Just-in-time provisioning",
        "yes",
        "By template name or body of the CA; the first connection is refused, as on AWS. The CA has to allow "
        "automatic registration.",
    ),
    (
        "Shadows",
        "yes",
        "Classic and named, MQTT and HTTP. A depth of 8 is accepted where the error page says 6; the thing need not be "
        "registered.",
    ),
    (
        "Jobs",
        "partly",
        "Schedules, maintenance windows (UTC), rollouts, aborts, time outs, retries, continuous jobs, S3 documents, "
        "presigned URLs of the backend (the role is not asked), templates, AWS's managed templates, both APIs, events. "
        "namespaceId (which AWS keeps for Greengrass, whose deployments have it here too) and "
        "destinationPackageVersions answer NotEmulated.",
    ),
    (
        "Commands",
        "partly",
        "Static and dynamic payloads, parameters and their conditions, time outs, both APIs, device topics in JSON and "
        "CBOR, events, deprecation and deletion after 12 hours. A placeholder that is a whole string of the template "
        "takes the value's own type. Not: the namespace AWS-IoT-FleetWise, the quota of executions at once a device.",
    ),
    (
        "Certificate providers",
        "yes",
        "CSRs of fleet provisioning are signed by the function (5 s); the certificate has to be for the CSR's key.",
    ),
    ("OCSP stapling, custom server certificates", "no", "One local CA signs for all endpoints."),
    (
        "Device Defender: metrics reports of devices",
        "partly",
        "Checked and answered in JSON and CBOR; nothing is stored or detected, and no report is too soon.",
    ),
    (
        "IoT policies",
        "yes",
        "All actions, wildcards, thing and certificate variables, all condition operators; policies of certificates, "
        "thing groups and their parents; at most 10 a target, 5 versions, 2,048 characters. Changes hold at once; "
        "on AWS they may take 6 to 8 minutes.",
    ),
    (
        "IoT policies: documents",
        "partly",
        "NotAction, NotResource and Principal are refused as malformed: AWS's IoT pages do not name them.",
    ),
    (
        "iot:ConnectAttributes",
        "yes",
        "A condition on it is evaluated; iot:Connect without the condition allows wills and persistent sessions, as "
        "AWS's own Greengrass core policies rely on.",
    ),
    (
        "Thing policy variables over HTTPS",
        "partly",
        "Without a client id they resolve only for an exclusively attached thing.",
    ),
    (
        "Shared subscriptions and policies",
        "partly",
        "iot:Subscribe is asked for topicfilter/$share/<group>/<filter>; AWS does not document which resource it asks.",
    ),
    ("iot:GetConnection, ListSubscriptions, SendDirectMessage for device certificates", "yes", "On client/<id>."),
    ("TestAuthorization, GetEffectivePolicies", "yes", "Cognito identity pools are not consulted."),
    (
        "Custom authorizers",
        "yes",
        "By username, WebSocket or HTTP query and headers, SNI's domain configuration, or default; token signatures; "
        "policies of at most 10; the connection ends after disconnectAfterInSeconds, and is asked for again after "
        "refreshAfterInSeconds. With enableCachingForHttp an answer serves the HTTP connection for that long.",
    ),
    ("Cognito identities", "partly", "Can have policies attached; there is no Cognito to sign in with."),
    (
        "SigV4 (HTTPS and WebSocket)",
        "partly",
        "A signature names the caller and is not verified; local IAM restricts nobody. Of a signed WebSocket URL the "
        "form, the service and the age (at most 15 minutes, less by X-Amz-Expires) count.",
    ),
    (
        "Credential provider and role aliases",
        "partly",
        "Over mutual TLS with iot:AssumeRoleWithCertificate and the thing name checked. The credentials are made "
        "locally; the role's trust and permissions are not asked.",
    ),
    ("Topic rules API, destinations", "yes", "The rules engine has a table of its own."),
    (
        "iot-data: Publish, retained messages",
        "yes",
        "Over the AWS endpoint and mutual TLS (8443), with MQTT 5 properties. Topics encoded or with plain slashes.",
    ),
    (
        "iot-data: connections",
        "partly",
        "GetConnection, DeleteConnection, ListSubscriptions, SendDirectMessage. "
        "What was before the last start is not known.",
    ),
    ("Lifecycle events", "yes", "Presence, failed connections by authorization, subscriptions."),
    (
        "Registry events",
        "yes",
        "Things, types, type associations, groups, memberships, hierarchies; off until UpdateEventConfigurations. For "
        "POLICY, CERTIFICATE and CA_CERTIFICATE, whose events AWS does not describe, there are none (a WARN).",
    ),
    (
        "DescribeEndpoint",
        "partly",
        "Gives localhost:<HTTPS port> for every type, localhost alone with --port-443. Like AWS's port 443 it takes "
        "HTTPS, WebSocket, and MQTT by ALPN; MQTT over mutual TLS without ALPN has a port of its own (endpoints.json).",
    ),
    (
        "Domain configurations",
        "partly",
        "Kept; the authorizer is in force by SNI. Authentication type, application protocol and TLS policy are not "
        "enforced (a WARN). Server certificates, OCSP and client certificate functions answer NotEmulated.",
    ),
    (
        "Logging options",
        "partly",
        "Entries go to the backend's CloudWatch Logs (AWSIotLogsV2, or the group of an event type), by default level, "
        "event type and target: Connect, Disconnect, Subscribe, Unsubscribe, Publish-In with their refusals, "
        "GetThingShadow, UpdateThingShadow, DeleteThingShadow, RuleExecution, FunctionExecution and the rules' other "
        "failures. Not: Publish-Out, RuleMatch, jobs, "
        "provisioning, retained messages. The role is not asked; of several targets that fit, the most verbose level "
        "counts.",
    ),
    (
        "Device Defender (audit, detect, security profiles, mitigation), software packages, streams, OTA updates, "
        "encryption configuration",
        "no",
        "NotEmulated.",
    ),
    (
        "Device Advisor: API, endpoint, TLS, MQTT, shadow, job and policy test cases",
        "partly",
        "MQTT over TLS alone; one run at a time, also with parallelRun; roles are not asked; no long duration tests, "
        "no signed qualification report; how backoff is told apart is our own measure (AWS publishes none)",
    ),
]
