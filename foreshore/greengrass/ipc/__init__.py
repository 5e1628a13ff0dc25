"""The Greengrass core's IPC operations: one file each, and this table of them, which is the parity list.

To add an operation: write its file with an `OPERATION`, add it here, and test it with the SDK's client.
"""

from __future__ import annotations

from foreshore.greengrass.ipc import (
    authorize_client_device_action,
    cancel_local_deployment,
    create_debug_password,
    create_local_deployment,
    defer_component_update,
    delete_thing_shadow,
    get_client_device_auth_token,
    get_component_details,
    get_configuration,
    get_local_deployment_status,
    get_secret_value,
    get_system_config,
    get_thing_shadow,
    list_components,
    list_local_deployments,
    list_named_shadows_for_thing,
    pause_component,
    publish_to_iot_core,
    publish_to_topic,
    put_component_metric,
    restart_component,
    resume_component,
    send_configuration_validity_report,
    stop_component,
    subscribe_to_certificate_updates,
    subscribe_to_component_updates,
    subscribe_to_configuration_update,
    subscribe_to_iot_core,
    subscribe_to_iot_core_connection_status,
    subscribe_to_topic,
    subscribe_to_validate_configuration_updates,
    update_configuration,
    update_state,
    update_thing_shadow,
    validate_authorization_token,
    verify_client_device_identity,
)
from foreshore.greengrass.ipc.operation import Operation

PREFIX = "aws.greengrass#"
SERVICE = "aws.greengrass#GreengrassCoreIPC"

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        authorize_client_device_action.OPERATION,
        cancel_local_deployment.OPERATION,
        create_debug_password.OPERATION,
        create_local_deployment.OPERATION,
        defer_component_update.OPERATION,
        delete_thing_shadow.OPERATION,
        get_client_device_auth_token.OPERATION,
        get_component_details.OPERATION,
        get_configuration.OPERATION,
        get_local_deployment_status.OPERATION,
        get_secret_value.OPERATION,
        get_thing_shadow.OPERATION,
        list_components.OPERATION,
        list_local_deployments.OPERATION,
        list_named_shadows_for_thing.OPERATION,
        pause_component.OPERATION,
        publish_to_iot_core.OPERATION,
        publish_to_topic.OPERATION,
        put_component_metric.OPERATION,
        restart_component.OPERATION,
        resume_component.OPERATION,
        send_configuration_validity_report.OPERATION,
        stop_component.OPERATION,
        subscribe_to_certificate_updates.OPERATION,
        subscribe_to_component_updates.OPERATION,
        subscribe_to_configuration_update.OPERATION,
        subscribe_to_iot_core.OPERATION,
        subscribe_to_iot_core_connection_status.OPERATION,
        subscribe_to_topic.OPERATION,
        subscribe_to_validate_configuration_updates.OPERATION,
        update_configuration.OPERATION,
        update_state.OPERATION,
        update_thing_shadow.OPERATION,
        validate_authorization_token.OPERATION,
        verify_client_device_identity.OPERATION,
    )
}

LITE_OPERATIONS: dict[str, Operation] = {
    **{name: operation for name, operation in OPERATIONS.items() if operation.lite},
    get_system_config.OPERATION.name: get_system_config.OPERATION,
}
"""What greengrass-lite answers, its private operation included."""
