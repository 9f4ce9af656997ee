"""Many hostile connections to one server on loopback, for a bounded time: `python hostile.py HOST PORT SECONDS CONNECTIONS MODEL`.

Not a test file: `test_hostile.py` starts it beside the server. Prints, as JSON, how often each status was answered.
"""

import asyncio
import collections
import contextlib
import itertools
import json
import sys
import time

SEEN = collections.Counter()
PAUSE_S = 0.1


class Attacker:
    """One connection at a time, again and again until the end."""

    def __init__(self, host, port, model, deadline):
        self.host, self.port, self.model, self.deadline = host, port, model, deadline

    def head(self, path="/v1/chat/completions", method="POST", **headers):
        named = {"Host": f"{self.host}:{self.port}", "Content-Type": "application/json", **headers}
        return "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in named.items()), "\r\n"]).encode()

    def question(self, **fields):
        messages = [{"role": "user", "content": "When does the ferry leave?"}]
        body = json.dumps({"model": self.model, "messages": messages, "max_tokens": 60, **fields}).encode()
        return self.head(**{"Content-Length": len(body)}) + body

    async def until_the_end(self, act):
        while time.monotonic() < self.deadline:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(max(0.1, self.deadline - time.monotonic())):
                    reader, writer = await asyncio.open_connection(self.host, self.port)
                    try:
                        await act(self, reader, writer)
                    finally:
                        writer.close()
            await asyncio.sleep(PAUSE_S)

    async def status(self, reader):
        line = await reader.readline()
        if line.startswith(b"HTTP/1.1 "):
            SEEN[int(line.split()[1])] += 1


async def says_nothing(attacker, reader, writer):
    await reader.read(1)


async def drips_headers(attacker, reader, writer):
    writer.write(attacker.head()[:-2])
    for number in itertools.count():
        writer.write(f"X-{number}: y\r\n".encode())
        await writer.drain()
        if reader.at_eof():
            return
        await asyncio.sleep(0.2)


async def drips_a_body(attacker, reader, writer):
    writer.write(attacker.head(**{"Content-Length": 1_000_000}))
    for _ in range(1000):
        writer.write(b" " * 20_000)
        await writer.drain()
        if reader.at_eof():
            return
        await asyncio.sleep(0.05)


async def sends_ten_megabytes(attacker, reader, writer):
    writer.write(attacker.head(**{"Transfer-Encoding": "chunked"}))
    with contextlib.suppress(OSError):
        for _ in range(160):
            writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
            await writer.drain()
    await attacker.status(reader)


async def leaves_in_mid_stream(attacker, reader, writer):
    writer.write(attacker.question(stream=True))
    await attacker.status(reader)
    await reader.read(200)


async def never_reads(attacker, reader, writer):
    writer.transport.pause_reading()
    writer.write(attacker.question(stream=True, n=4, logprobs=True, top_logprobs=20) * 5)
    await asyncio.sleep(5)


async def talks_nonsense(attacker, reader, writer):
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n")
    await attacker.status(reader)


async def asks_and_asks(attacker, reader, writer):
    for _ in range(20):
        writer.write(attacker.question(max_tokens=5))
        await attacker.status(reader)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")


async def closes_its_half(attacker, reader, writer):
    writer.write(attacker.question())
    writer.write_eof()
    await attacker.status(reader)


async def sends_many_at_once(attacker, reader, writer):
    writer.write(attacker.head("/health", "GET") * 50)
    for _ in range(50):
        await attacker.status(reader)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")


KINDS = (
    says_nothing,
    drips_headers,
    drips_a_body,
    sends_ten_megabytes,
    leaves_in_mid_stream,
    never_reads,
    talks_nonsense,
    asks_and_asks,
    closes_its_half,
    sends_many_at_once,
)


async def attack(host, port, seconds, connections, model):
    attacker = Attacker(host, port, model, time.monotonic() + seconds)
    await asyncio.gather(*(attacker.until_the_end(KINDS[number % len(KINDS)]) for number in range(connections)))


if __name__ == "__main__":
    asyncio.run(attack(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
    print(json.dumps(SEEN))
