"""The HTTP server and client, over real sockets, with tiny reads and broken peers."""

import asyncio

import pytest

from foreshore.errors import PeerError
from foreshore.http import Client, Request, Response, Server, text_response


async def echo(request: Request) -> Response:
    await asyncio.sleep(0)
    return Response(200, [(b"X-Seen", request.target.encode())], request.body)


def serve(handler, body, **options):
    async def main():
        server = Server(handler, **options)
        port = await server.start("127.0.0.1", 0)
        client = Client()
        try:
            return await body(server, client, port)
        finally:
            await client.close()
            await server.stop()

    return asyncio.run(main())


async def raw(port, data, *, step=0):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    if step:
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            await asyncio.sleep(0)
    else:
        writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_body_goes_there_and_back_on_one_connection():
    async def body(server, client, port):
        for size in (0, 1, 16384, 300_000):
            response = await client.fetch("POST", "127.0.0.1", port, "/a?b=1", [], b"x" * size)
            assert (response.status, response.body, response.header("x-seen")) == (200, b"x" * size, "/a?b=1")
        assert len(server.connections) == 1

    serve(echo, body)


def test_ten_bytes_at_a_time():
    async def body(server, client, port):
        data = b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 25\r\n\r\n" + b"y" * 25
        return await raw(port, data, step=10)

    answer = serve(echo, body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nX-Seen: /x\r\n")
    assert answer.endswith(b"\r\n\r\n" + b"y" * 25)


def test_pipelined_requests_are_answered_in_order():
    async def slow_first(request):
        for _ in range(20 if request.target == "/1" else 0):
            await asyncio.sleep(0)
        return text_response(200, request.target)

    async def body(server, client, port):
        last = b"GET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        return await raw(port, b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n" + last)

    answer = serve(slow_first, body)
    assert [answer.index(mark) for mark in (b"/1", b"/2", b"/3")] == sorted(
        answer.index(mark) for mark in (b"/1", b"/2", b"/3")
    )


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("https://h:8443/topics/a%2Fb?qos=1", b"h:8443 /topics/a%2Fb?qos=1"),
        ("http://h?x=/y", b"h /?x=/y"),
        ("http://user@h", b"h /"),
        ("/plain?u=http://b/c", b"other /plain?u=http://b/c"),
    ],
)
def test_a_whole_uri_as_target_is_its_path_and_its_host(target, seen):
    """RFC 9112, section 3.2.2: a server takes the absolute form, and ignores Host then."""

    async def show(request):
        return Response(200, [], f"{request.header('host')} {request.target}".encode())

    async def body(server, client, port):
        return await raw(port, f"GET {target} HTTP/1.1\r\nhost: other\r\nConnection: close\r\n\r\n".encode())

    assert serve(show, body).endswith(seen)


def test_a_stream_is_chunked_and_read_whole():
    def handler(request):
        async def chunks():
            for index in range(3):
                yield b"part%d" % index

        return Response(200, [], chunks())

    async def body(server, client, port):
        response = await client.fetch("GET", "127.0.0.1", port, "/")
        assert response.body == b"part0part1part2"
        assert response.header("transfer-encoding") == "chunked"

    serve(handler, body)


def test_head_and_no_content_have_no_body():
    def handler(request):
        return Response(204) if request.target == "/none" else text_response(200, "hello")

    async def body(server, client, port):
        head = await client.fetch("HEAD", "127.0.0.1", port, "/")
        assert (head.body, head.header("content-length")) == (b"", "5")
        none = await client.fetch("GET", "127.0.0.1", port, "/none")
        assert (none.status, none.header("content-length")) == (204, "")
        assert (await client.fetch("GET", "127.0.0.1", port, "/")).body == b"hello"

    serve(handler, body)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200\r\n\r\n" + b"z" * 200, b"413"),
    ],
)
def test_a_bad_request_harms_only_itself(data, status):
    async def body(server, client, port):
        answer = await raw(port, data)
        assert answer.split(b" ")[1] == status
        assert (await client.fetch("GET", "127.0.0.1", port, "/after")).status == 200

    serve(echo, body, max_head=1000, max_body=100)


def test_a_handler_that_raises_is_shaped_by_the_room():
    def handler(request):
        raise ValueError("no")

    async def body(server, client, port):
        assert (await client.fetch("GET", "127.0.0.1", port, "/")).status == 503

    serve(handler, body, on_error=lambda request, error: text_response(503, str(error)))


def test_a_dead_pooled_connection_is_replaced():
    async def body(server, client, port):
        assert (await client.fetch("GET", "127.0.0.1", port, "/")).status == 200
        for connection in list(server.connections):
            connection.transport.abort()
        assert (await client.fetch("GET", "127.0.0.1", port, "/")).status == 200

    serve(echo, body)


def test_a_server_that_talks_nonsense_is_a_peer_error():
    async def main():
        async def nonsense(reader, writer):
            await reader.readline()
            writer.write(b"what?\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        client = Client()
        with pytest.raises((PeerError, ConnectionError)):
            await client.fetch("GET", "127.0.0.1", server.sockets[0].getsockname()[1], "/")
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_an_upgrade_hands_the_connection_over():
    class Shout(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data.upper())

    def handler(request):
        headers = [(b"Upgrade", b"shout"), (b"Connection", b"Upgrade")]
        return Response(101, headers, upgrade=lambda transport, rest: Shout())

    async def body(server, client, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: shout\r\nConnection: Upgrade\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"HELLO"
        writer.close()
        await writer.wait_closed()

    serve(handler, body)
