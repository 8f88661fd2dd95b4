"""paho_round.py URL VERSION QOS [CA_FILE]: one round of tests/clients.rs with paho-mqtt; ends with 0, or says what went wrong."""

import queue
import socket
import ssl
import sys
from urllib.parse import urlparse

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEADLINE = 20
COUNT = 50

url, version, qos = urlparse(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ca_file = sys.argv[4] if len(sys.argv) > 4 else None
PROTOCOL = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}[version]
name = f"paho-{url.scheme}-{version.replace('.', '')}-{qos}"


class Client:
    """A connection whose events wait in queues."""

    def __init__(self, client_id, keep, will=None):
        self.received, self.connected, self.subscribed = queue.Queue(), queue.Queue(), queue.Queue()
        transport = "websockets" if url.scheme in ("ws", "wss") else "tcp"
        arguments = {} if PROTOCOL == mqtt.MQTTv5 else {"clean_session": not keep}
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=PROTOCOL, transport=transport, **arguments)
        self.mqtt.on_connect = lambda _c, _u, flags, code, _p: self.connected.put((flags, code))
        self.mqtt.on_message = lambda _c, _u, message: self.received.put(message)
        self.mqtt.on_subscribe = lambda _c, _u, _m, codes, _p: self.subscribed.put(codes)
        if transport == "websockets":
            self.mqtt.ws_set_options(path="/mqtt")
        if url.scheme in ("mqtts", "wss"):
            self.mqtt.tls_set(ca_certs=ca_file, cert_reqs=ssl.CERT_REQUIRED)
        if will:
            self.mqtt.will_set(*will, qos=qos)
        arguments = {}
        if PROTOCOL == mqtt.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 300 if keep else 0
            arguments = {"clean_start": not keep, "properties": properties}
        self.mqtt.connect(url.hostname, url.port, keepalive=30, **arguments)
        self.mqtt.loop_start()
        self.flags, code = self.connected.get(timeout=DEADLINE)
        assert not code.is_failure, f"CONNECT was answered {code}"

    def subscribe(self, topic):
        self.mqtt.subscribe(topic, qos)
        codes = self.subscribed.get(timeout=DEADLINE)
        assert [code.value for code in codes] == [qos], f"SUBSCRIBE was answered {codes}"

    def publish(self, topic, payloads):
        for sent in [self.mqtt.publish(topic, payload, qos) for payload in payloads]:
            sent.wait_for_publish(DEADLINE)
            assert sent.is_published(), f"no acknowledgement on {topic} within {DEADLINE} s"

    def expect(self, topic, payloads):
        for payload in payloads:
            message = self.received.get(timeout=DEADLINE)
            assert (message.topic, message.payload.decode()) == (topic, payload), \
                f"expected {payload} on {topic}, got {message.payload} on {message.topic}"
            assert message.qos == qos, f"expected QoS {qos}, got {message.qos}"

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


def numbered(kind):
    return [f"{kind} {number}" for number in range(COUNT)]


Client(f"{name}-sub", keep=False).close()
subscriber = Client(f"{name}-sub", keep=True)
assert not subscriber.flags.session_present, "a session was there before the first connection"
subscriber.subscribe(f"{name}/+")
publisher = Client(f"{name}-pub", keep=False)
publisher.publish(f"{name}/live", numbered("live"))
subscriber.expect(f"{name}/live", numbered("live"))

if qos > 0:
    subscriber.close()
    publisher.publish(f"{name}/queued", numbered("queued"))
    subscriber = Client(f"{name}-sub", keep=True)
    assert subscriber.flags.session_present, "the session is gone"
    subscriber.expect(f"{name}/queued", numbered("queued"))

dying = Client(f"{name}-dying", keep=False, will=(f"{name}/will", "died"))
# No DISCONNECT: the end of the stream is all that the broker hears.
dying.mqtt.loop_stop()
dying.mqtt.socket().close() if url.scheme in ("ws", "wss") else dying.mqtt.socket().shutdown(socket.SHUT_RDWR)
subscriber.expect(f"{name}/will", ["died"])

publisher.close()
subscriber.close()
Client(f"{name}-sub", keep=False).close()
print("ok")
