"""What is emulated of recipes, component lifecycle and deployments, and what is not."""

from __future__ import annotations

ROWS: list[tuple[str, str, str]] = [
    ("Component recipes, YAML and JSON", "yes",
     "keys in any case, as the classic nucleus; YAML aliases are refused, as the device does not expand them"),
    ("Platform selection", "yes", "exact, *, all/any, /regex/, custom attributes; the platform is this machine's"),
    ("Recipe variables", "yes", "own component and direct dependencies; what names nothing stays as it is"),
    ("Version requirements and dependency resolution", "yes",
     "npm ranges over the recipes at hand; the cloud's components are not asked"),
    ("Component types plugin, nucleus and lambda", "no", "NotEmulated; the Lambda host runs handlers as generic ones"),
    ("Lifecycle steps install, startup, run, shutdown, recover, uninstall", "yes",
     "Setenv, Timeout, Skipif, three errors to BROKEN, errorResetTime"),
    ("Bootstrap", "partly", "all components are restarted after it, as the nucleus is, for exit codes 0, 100 and 101; "
     "the core and the machine stay up; a failure is always rolled back"),
    ("RequiresPrivilege", "partly", "runs as root when the core does; else it keeps the present user and says so"),
    ("runWith.posixUser and runWithDefault.posixUser", "partly",
     "when the core runs as root; told no user, a root core runs components as root, where the nucleus refuses"),
    ("runWith.systemResourceLimits", "no", "logged as without effect"),
    ("Configuration of aws.greengrass.Nucleus and NucleusLite", "partly",
     "acted on: logging level, format and sizes, runWithDefault, networkProxy, platformOverride, mqtt.spooler, "
     "telemetry, fleetStatus, interpolateComponentConfiguration; all else is said in greengrass.log to have no effect"),
    ("PauseComponent and ResumeComponent", "partly", "SIGSTOP and SIGCONT to the process groups, not a cgroup freezer"),
    ("Daemons that a Startup step leaves", "partly", "ended when the component stops; AWS leaves them to Shutdown"),
    ("RestartComponent of a BROKEN component", "partly", "installs it anew; AWS answers well and leaves it BROKEN"),
    ("Component environment, working directory and folders", "yes",
     "as /greengrass/v2; AWS_* of the developer's own shell is not passed on"),
    ("Component log files", "yes", "AWS's lines in TEXT or JSON, rotated by logging.fileSizeKB and totalLogsSizeKB"),
    ("Local deployments", "yes", "delta on LOCAL_DEPLOYMENT, merge and reset, ROLLBACK and DO_NOTHING, one after the "
     "other; what was queued or under way when the core died is taken up again, where the nucleus forgets it"),
    ("Deployment documents of CreateDeployment", "yes", "update, validation and failure policies, in the nucleus's "
     "order; a rollback undoes only what the deployment changed, where the nucleus restores all configuration"),
    ("Hot reload of changed recipes and sources", "yes", "Foreshore's own: a local deployment of what changed"),
    ("End of a deployment", "partly",
     "components must stay as asked for 0.3 s; the nucleus looks once a second"),
    ("S3 artifacts", "partly", "taken from the project's folders or from an artifact folder, never from S3; Digest is "
     "checked, Permission is set as the nucleus sets it; docker: and Lambda artifacts are NotEmulated"),
    ("greengrass-cli", "partly", "AWS's own Java program drives every verb of component, deployment, logs, pubsub and "
     "iotcore; get-debug-password answers, but no debug console is behind it; AuthorizedPosixGroups is not read"),
    ("Components of AWS's", "partly",
     "Nucleus, Cli, TokenExchangeService, ShadowManager, SecretManager, StreamManager, LogManager, NucleusEmitter, "
     "DiskSpooler and clientdevices are parts of the core in any version, configured by the deployment; a setting "
     "without effect is a WARN; all other components are NotEmulated"),
    ("aws.greengrass.telemetry.NucleusEmitter", "yes", "local topic, mqttTopic and interval"),
    ("Fleet status ($aws/things/<thing>/greengrassv2/health/json)", "partly",
     "launch, deployments, changes, reconnection and daily, cut at 128,000 bytes; fleetConfigArns and statusCodes are "
     "empty"),
    ("Nucleus telemetry ($aws/things/<thing>/greengrass/health/json)", "yes",
     "aggregated hourly, published daily and durable in between; the intervals can't be made smaller, as there"),
    ("aws.greengrass.LogManager", "yes",
     "uploads to the backend's CloudWatch Logs; minimumLogLevel applies to lines in JSON, as there; lines of one event "
     "keep their line ends"),
    ("lite: steps, keys by case, Platform.runtime", "partly",
     "what lite ignores is ignored and logged; top-level keys in another case are taken; no systemd restarts"),
    ("lite: malformed policy resources fail a deployment", "yes", "classic logs and skips the policy"),
    ("Deployments of several groups to one core", "yes", "each group keeps its roots; requirements must agree"),
]  # fmt: skip
