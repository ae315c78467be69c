"""An independent client of the WebSocket forms: websocket-client, and the ws_client of the Kubernetes client for Python.

Reads lines of an act and a URL, does the act, and answers each with a line "ok". Any surprise ends it with a traceback.
"""

import base64
import json
import sys

import websocket
from kubernetes.client import Configuration
from kubernetes.stream import ws_client


def connect(url, protocol):
    protocols = [protocol] if protocol else None
    socket = websocket.create_connection(url, subprotocols=protocols, timeout=60)
    assert socket.getsubprotocol() == (protocol or None), socket.getsubprotocol()
    return socket


class Channels:
    """Messages with a channel in front, in binary or base64."""

    def __init__(self, socket, in_base64):
        self.socket, self.in_base64 = socket, in_base64

    def send(self, channel, data):
        if self.in_base64:
            self.socket.send(str(channel) + base64.b64encode(data).decode())
        else:
            self.socket.send_binary(bytes([channel]) + data)

    def receive(self):
        """The next channel and its data; None when the server has closed."""
        opcode, data = self.socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return None
        if self.in_base64:
            assert opcode == websocket.ABNF.OPCODE_TEXT
            return int(data[:1]), base64.b64decode(data[1:])
        assert opcode == websocket.ABNF.OPCODE_BINARY
        return data[0], data[1:]

    def until(self, channel, data):
        """Receives until so much has come on the channel, and nothing else on others."""
        got = b""
        while got != data:
            message = self.receive()
            assert message is not None, (got, data)
            assert message[0] == channel or not message[1], message
            got += message[1]
            assert data.startswith(got), (got, data)

    def rest(self):
        """All that comes until the server closes, by channel."""
        all = {}
        while (message := self.receive()) is not None:
            all[message[0]] = all.get(message[0], b"") + message[1]
        return all


def cat(protocol, url):
    channels = Channels(connect(url, protocol), "base64" in protocol)
    data = bytes(range(256)) * 40
    channels.send(0, data)
    channels.until(1, data)
    if protocol.startswith("v5."):
        channels.socket.send_binary(bytes([255, 0]))
        assert json.loads(channels.rest()[3])["status"] == "Success"


def exit_3(protocol, url):
    channels = Channels(connect(url, protocol), "base64" in protocol)
    told = channels.rest()[3]
    if protocol.startswith("v"):
        told = json.loads(told)
        assert told["reason"] == "NonZeroExitCode", told
        assert told["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}], told
    else:
        assert b"exit code: 3" in told, told


def ports(protocol, url):
    channels = Channels(connect(url, protocol), "base64" in protocol)
    for channel, port in [(0, 80), (1, 80), (2, 443), (3, 443)]:
        channels.until(channel, port.to_bytes(2, "little"))
    greetings = {}
    while len(greetings) < 2:
        channel, data = channels.receive()
        greetings[channel] = data
    assert greetings == {0: b"80:", 2: b"443:"}, greetings
    for channel, data in [(2, b"to 443"), (0, b"to 80")]:
        channels.send(channel, data)
        channels.until(channel, data)


def kubernetes_exit(_, url):
    client = ws_client.WSClient(Configuration(), url, {}, True)
    client.run_forever(timeout=60)
    assert client.returncode == 3, client.returncode


def kubernetes_say(_, url):
    client = ws_client.WSClient(Configuration(), url, {}, True)
    client.run_forever(timeout=60)
    assert client.read_stdout(timeout=1) == "out", "stdout"
    assert client.read_stderr(timeout=1) == "err", "stderr"
    assert client.returncode == 0, client.returncode


ACTS = {
    "cat": cat,
    "exit": exit_3,
    "ports": ports,
    "kubernetes-exit": kubernetes_exit,
    "kubernetes-say": kubernetes_say,
}

for line in sys.stdin:
    act, protocol, url = line.rstrip("\n").split(" ")
    ACTS[act](protocol, url)
    print("ok", flush=True)
