"""MQTT 3.1.1 and 5: codec, topics, sessions, the broker and a small client.

Clauses are named beside the code that keeps them, e.g. [MQTT-3.3.1-5]; numbers are those of MQTT 5.0 (OASIS, 2019).
"""
