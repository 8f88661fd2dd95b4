// mqtt_js_round.js URL VERSION QOS [CA_FILE]: one round of tests/clients.rs with MQTT.js; ends with 0, or says what went wrong.
const fs = require("fs");
const assert = require("assert");
const mqtt = require("mqtt");

const DEADLINE_MS = 20000;
const COUNT = 50;
const [url, version, qosText, caFile] = process.argv.slice(2);
const qos = Number(qosText);
const protocol = { 3.1: { protocolId: "MQIsdp", protocolVersion: 3 }, "3.1.1": { protocolVersion: 4 }, 5: { protocolVersion: 5 } }[version];
const name = `js-${url.split(":")[0]}-${version.replaceAll(".", "")}-${qos}`;

// A connection whose messages wait in a queue.
async function open(clientId, keep, will) {
  const client = mqtt.connect(url.startsWith("ws") ? `${url}/mqtt` : url, {
    ...protocol, clientId, clean: !keep, will, reconnectPeriod: 0, connectTimeout: DEADLINE_MS,
    ca: caFile && fs.readFileSync(caFile),
    properties: version === "5" && keep ? { sessionExpiryInterval: 300 } : undefined,
  });
  const received = [];
  client.on("message", (topic, payload, packet) => received.push({ topic, payload: payload.toString(), qos: packet.qos }));
  const connack = await new Promise((resolve, reject) => {
    client.once("connect", resolve);
    client.once("error", reject);
    client.once("close", () => reject(new Error("closed instead of CONNACK")));
  });
  return { client, received, sessionPresent: connack.sessionPresent, close: () => client.endAsync() };
}

async function expect({ received }, topic, payloads) {
  const deadline = Date.now() + DEADLINE_MS;
  for (const payload of payloads) {
    while (received.length === 0) {
      assert(Date.now() < deadline, `nothing came, expected ${payload} on ${topic}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.deepStrictEqual(received.shift(), { topic, payload, qos });
  }
}

const numbered = (kind) => Array.from({ length: COUNT }, (_, number) => `${kind} ${number}`);
const publish = ({ client }, topic, payloads) => Promise.all(payloads.map((payload) => client.publishAsync(topic, payload, { qos })));

async function round() {
  await (await open(`${name}-sub`, false)).close();
  let subscriber = await open(`${name}-sub`, true);
  assert(!subscriber.sessionPresent, "a session was there before the first connection");
  const granted = await subscriber.client.subscribeAsync(`${name}/+`, { qos });
  assert.strictEqual(granted[0].qos, qos);
  const publisher = await open(`${name}-pub`, false);
  await publish(publisher, `${name}/live`, numbered("live"));
  await expect(subscriber, `${name}/live`, numbered("live"));

  if (qos > 0) {
    await subscriber.close();
    await publish(publisher, `${name}/queued`, numbered("queued"));
    subscriber = await open(`${name}-sub`, true);
    assert(subscriber.sessionPresent, "the session is gone");
    await expect(subscriber, `${name}/queued`, numbered("queued"));
  }

  const dying = await open(`${name}-dying`, false, { topic: `${name}/will`, payload: Buffer.from("died"), qos });
  // No DISCONNECT: the end of the stream is all that the broker hears.
  dying.client.stream.destroy();
  await expect(subscriber, `${name}/will`, ["died"]);

  await publisher.close();
  await subscriber.close();
  await (await open(`${name}-sub`, false)).close();
}

const late = setTimeout(() => { console.error("the round did not end in time"); process.exit(1); }, 4 * DEADLINE_MS);
round().then(() => { clearTimeout(late); console.log("ok"); process.exit(0); }, (error) => { console.error(error); process.exit(1); });
