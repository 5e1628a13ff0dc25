"""An IoT Core in a thread of its own, with boto3 clients: for tests that speak to its APIs as programs do."""

import asyncio
import threading

import boto3
import pytest
from botocore.config import Config

from foreshore.http import Server
from foreshore.iot.service import IotCore
from foreshore.seams import InvokeResult


class Edge:
    """IoT Core's APIs on a free port. `invoke` is what Lambda would answer: function name to (event) -> bytes;
    `logs` what was logged."""

    def __init__(self, folder):
        self.folder = folder
        self.functions = {}
        self.clients = []
        self.logs = []
        self.loop = asyncio.new_event_loop()
        self.failure = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()
        if self.failure is not None:
            raise self.failure

    async def _invoke(self, function, payload, **options):
        return InvokeResult(self.functions[function.rpartition(":")[2]](payload))

    def _run(self):
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._start())
        except BaseException as error:
            self.failure = error
            self.loop.close()
            return
        finally:
            self._ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._stop())
        self.loop.close()

    async def _start(self):
        self.iot = IotCore(
            state=self.folder / "state",
            certs=self.folder / "certs",
            region="us-east-1",
            account="000000000000",
            span=lambda span: None,
            log=self.logs.append,
            invoke=self._invoke,
            backend_url=lambda: "http://127.0.0.1:9",
            rate_limits=False,
        )
        await self.iot.start("127.0.0.1", mqtt_port=0, mqtts_port=0, https_port=0)
        table = {"iot": self.iot.handle_iot, "iotdata": self.iot.handle_iot_data}
        table["iot-jobs-data"] = self.iot.handle_jobs_data
        table["iotdeviceadvisor"] = self.iot.handle_device_advisor

        async def handle(request):
            return await table[request.header("authorization").split("/")[3]](request)

        self.server = Server(handle)
        self.port = await self.server.start("127.0.0.1", 0)

    async def _stop(self):
        await self.server.stop()
        await self.iot.stop()

    def client(self, name="iot"):
        client = boto3.client(
            name,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="secret",
            config=Config(retries={"max_attempts": 0, "mode": "standard"}),
        )
        self.clients.append(client)
        return client

    def run(self, coroutine):
        """Run a coroutine on the edge's loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def stop(self):
        for client in self.clients:
            client.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)


@pytest.fixture
def edge(tmp_path):
    made = Edge(tmp_path)
    yield made
    made.stop()
