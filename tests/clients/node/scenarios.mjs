// amqplib against the broker under test: `node scenarios.mjs <url> <scenario> <prefix>` prints one JSON result.
import amqp from "amqplib";

const [url, scenario, prefix] = process.argv.slice(2);

const text = (message) => message.content.toString();

/** Consumes until `count` messages came; `each` settles them. */
function consume(channel, queue, count, each, options = {}) {
  return new Promise((resolve, reject) => {
    const received = [];
    channel.consume(queue, (message) => {
      if (message === null) return reject(new Error("cancelled"));
      received.push(message);
      try {
        each?.(message, received);
      } catch (error) {
        return reject(error);
      }
      if (received.length === count) resolve(received);
    }, options).catch(reject);
  });
}

/** Waits for the next event of this name. */
const event = (emitter, name) => new Promise((resolve) => emitter.once(name, resolve));

const scenarios = {
  async work(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue, messageCount } = await channel.assertQueue(prefix, { durable: true });
    for (let n = 0; n < 10; n++) channel.sendToQueue(queue, Buffer.from(`${n}`), { persistent: true });
    await channel.waitForConfirms();
    const counted = await channel.checkQueue(queue);
    const worker = await connection.createChannel();
    await worker.prefetch(3);
    let refused = 0;
    const received = await consume(worker, queue, 12, (message) => {
      // 4 is put back once, 5 as well by reject; 6 is dropped.
      if (text(message) === "4" && !message.fields.redelivered) { refused++; worker.nack(message); }
      else if (text(message) === "5" && !message.fields.redelivered) { refused++; worker.reject(message, true); }
      else if (text(message) === "6") worker.nack(message, false, false);
      else worker.ack(message);
    });
    await worker.close();
    const left = await channel.checkQueue(queue);
    return {
      messageCount,
      counted: counted.messageCount,
      refused,
      order: received.map(text).filter((body, index, all) => all.indexOf(body) === index),
      redelivered: received.filter((message) => message.fields.redelivered).map(text).sort(),
      left: left.messageCount,
    };
  },

  async prefetch(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue(prefix);
    for (let n = 0; n < 6; n++) channel.sendToQueue(queue, Buffer.from(`${n}`));
    await channel.waitForConfirms();
    await channel.prefetch(2);
    let received;
    const first = await consume(channel, queue, 2, (_message, all) => { received = all; });
    const held = (await channel.checkQueue(queue)).messageCount;
    const before = received.length;
    channel.ackAll();
    while (received.length < 4) await new Promise(setImmediate);
    return { first: first.slice(0, 2).map(text), held, before, then: received.slice(0, 4).map(text) };
  },

  async headers(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue("", { exclusive: true });
    await channel.assertExchange(prefix, "headers", { durable: false, autoDelete: true });
    await channel.bindQueue(queue, prefix, "", { "x-match": "all", kind: "order", size: 3 });
    const options = {
      headers: { kind: "order", size: 3, flag: true, none: null, list: [1, "two", { three: 3.5 }], far: 2 ** 40 },
      contentType: "application/json",
      correlationId: "c1",
      replyTo: "r",
      messageId: "m1",
      timestamp: 1700000000,
      type: "t",
      appId: "node",
      priority: 4,
    };
    channel.publish(prefix, "", Buffer.from("{}"), options);
    channel.publish(prefix, "", Buffer.from("no"), { headers: { kind: "order", size: 4 } });
    await channel.waitForConfirms();
    const message = await channel.get(queue, { noAck: true });
    const empty = await channel.get(queue, { noAck: true });
    const { headers, contentType, correlationId, replyTo, messageId, timestamp, type, appId, priority } =
      message.properties;
    return {
      serverNamed: queue.startsWith("amq.gen-"),
      empty,
      same: JSON.stringify({ headers, contentType, correlationId, replyTo, messageId, timestamp, type, appId, priority })
        === JSON.stringify(options),
      headers,
    };
  },

  async returned(connection) {
    const channel = await connection.createConfirmChannel();
    const order = [];
    let message;
    channel.on("return", (returned) => { order.push("return"); message = returned; });
    channel.publish("", `${prefix}.nobody`, Buffer.from("x"), { mandatory: true }, () => order.push("ack"));
    await channel.waitForConfirms();
    return { body: text(message), code: message.fields.replyCode, reason: message.fields.replyText, order };
  },

  async refused(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue(prefix, {
      maxLength: 1, arguments: { "x-overflow": "reject-publish" },
    });
    const outcomes = [];
    for (let n = 0; n < 3; n++) {
      await new Promise((resolve) => {
        channel.sendToQueue(queue, Buffer.from(`${n}`), {}, (error) => { outcomes.push(error ? "nack" : "ack"); resolve(); });
      });
    }
    return { outcomes };
  },

  async deadLetters(connection) {
    const channel = await connection.createConfirmChannel();
    const dead = await channel.assertQueue(`${prefix}.dead`);
    const { queue } = await channel.assertQueue(prefix, {
      deadLetterExchange: "", deadLetterRoutingKey: dead.queue, messageTtl: 20,
    });
    channel.sendToQueue(queue, Buffer.from("late"));
    const [letter] = await consume(channel, dead.queue, 1, null, { noAck: true });
    const [death] = letter.properties.headers["x-death"];
    return { body: text(letter), reason: death.reason, queue: death.queue === prefix, count: death.count };
  },

  async missing(connection) {
    const channel = await connection.createChannel();
    const failure = event(channel, "error");
    let thrown;
    try {
      await channel.checkQueue(`${prefix}.nowhere`);
    } catch (error) {
      thrown = error.message;
    }
    const error = await failure;
    const other = await connection.createChannel();
    await other.assertQueue(prefix);
    let mismatch;
    other.on("error", () => {});
    try {
      await other.assertQueue(prefix, { durable: false });
    } catch (caught) {
      mismatch = { code: caught.code, message: caught.message };
    }
    const third = await connection.createChannel();
    return { code: error.code, thrown, mismatch, stillOpen: (await third.checkQueue(prefix)).queue === prefix };
  },

  async cancelled(connection) {
    const channel = await connection.createChannel();
    const { queue } = await channel.assertQueue(prefix);
    const told = new Promise((resolve) => channel.consume(queue, resolve));
    await (await connection.createChannel()).deleteQueue(queue);
    return { message: await told };
  },

  async large(connection) {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue(prefix);
    const body = Buffer.alloc(5_000_000);
    for (let n = 0; n < body.length; n++) body[n] = (n * 31) % 251;
    channel.sendToQueue(queue, body);
    await channel.waitForConfirms();
    const message = await channel.get(queue, { noAck: true });
    return { same: Buffer.compare(message.content, body) === 0 };
  },

  async rpc(connection) {
    const server = await connection.createChannel();
    await server.assertQueue(prefix);
    await server.consume(prefix, (message) => {
      const answer = Buffer.from(`${Number(text(message)) * 2}`);
      server.sendToQueue(message.properties.replyTo, answer, { correlationId: message.properties.correlationId });
      server.ack(message);
    });
    const client = await connection.createChannel();
    const { queue } = await client.assertQueue("", { exclusive: true });
    const answers = consume(client, queue, 5, null, { noAck: true });
    for (let n = 0; n < 5; n++) {
      client.sendToQueue(prefix, Buffer.from(`${n}`), { replyTo: queue, correlationId: `c${n}` });
    }
    const pairs = (await answers).map((message) => [message.properties.correlationId, text(message)]);
    return { answers: Object.fromEntries(pairs) };
  },
};

const connection = await amqp.connect(url);
connection.on("error", (error) => { console.error(error); process.exitCode = 1; });
console.log(JSON.stringify(await scenarios[scenario](connection)));
await connection.close();
