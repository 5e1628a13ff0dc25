"""A fleet of simulated devices: real MQTT clients, one certificate each, replaying recorded series.

`scenario.py` (pure) reads a YAML scenario, `series.py` (pure) turns recorded files into readings, `fleet.py` (shell)
connects with paho-mqtt over mutual TLS and publishes, `identities.py` (shell) asks the AWS endpoint for each device's
thing and certificate.
"""
