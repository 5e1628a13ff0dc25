"""A device of a few lines that sends PUBLISH and SUBSCRIBE again, with their identifiers, until they are answered."""

import os
import socket
import ssl

from foreshore.iot.mqtt import codec
from foreshore.iot.mqtt.codec import V311, Connect, Publish, Request, Splitter, Subscribe, encode

thing = os.environ["FORESHORE_THING"]
context = ssl.create_default_context(cafile=os.environ["FORESHORE_CA"])
context.load_cert_chain(os.environ["FORESHORE_CERT"], os.environ["FORESHORE_KEY"])
address = (os.environ["FORESHORE_ADVISOR_HOST"], int(os.environ["FORESHORE_ADVISOR_PORT"]))
with context.wrap_socket(socket.create_connection(address), server_hostname=address[0]) as device:
    device.settimeout(0.2)
    device.sendall(encode(Connect(thing, V311), V311))
    waiting = {
        1: Subscribe(1, [Request(f"{thing}/commands", 1)]),
        2: Publish(f"{thing}/readings", b"1", 1, packet_id=2),
    }
    splitter = Splitter()
    is_up = False
    while True:
        try:
            data = device.recv(4096)
            if not data:
                break
            for first, body in splitter.feed(data):
                packet = codec.decode(first, body, V311)
                is_up |= isinstance(packet, codec.Connack)
                waiting.pop(getattr(packet, "packet_id", 0), None)
        except TimeoutError:
            pass
        if is_up:
            device.sendall(b"".join(encode(packet, V311) for packet in waiting.values()))
