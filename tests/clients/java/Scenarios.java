// The RabbitMQ Java client against the broker under test: java Scenarios URI PREFIX
// Prints a line a scenario: "ok NAME", or "FAILED NAME" with the reason. Names of queues and exchanges begin with PREFIX.

import com.rabbitmq.client.*;

import java.io.IOException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicReference;

public class Scenarios {
    static final long WAIT_SECONDS_MAX = 10;

    final ConnectionFactory factory = new ConnectionFactory();
    final String uri;
    final String prefix;
    final Connection connection;

    Scenarios(String uri, String prefix) throws Exception {
        this.uri = uri;
        this.prefix = prefix;
        factory.setUri(uri);
        connection = factory.newConnection("Scenarios");
    }

    interface Scenario {
        void run(Channel channel) throws Exception;
    }

    interface Action {
        void run() throws Exception;
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        new Scenarios(arguments[0], arguments[1]).all();
        System.exit(0);
    }

    void all() throws Exception {
        run("confirms", this::confirms);
        run("rejectedPublishes", this::rejectedPublishes);
        run("consume", this::consume);
        run("returns", this::returns);
        run("redelivery", this::redelivery);
        run("content", this::content);
        run("exchanges", this::exchanges);
        run("deadLetters", this::deadLetters);
        run("priorities", this::priorities);
        run("transactions", this::transactions);
        run("transactionsWithoutSelect", this::transactionsWithoutSelect);
        run("rpc", this::rpc);
        run("directReplyTo", this::directReplyTo);
        run("errors", this::errors);
        run("cancelNotification", this::cancelNotification);
        run("largeMessage", this::largeMessage);
        run("manyChannels", this::manyChannels);
        run("refusedConnections", this::refusedConnections);
        connection.close();
    }

    void run(String name, Scenario scenario) {
        try {
            Channel channel = connection.createChannel();
            scenario.run(channel);
            if (channel.isOpen()) channel.close();
            System.out.println("ok " + name);
        } catch (Throwable problem) {
            System.out.println("FAILED " + name);
            problem.printStackTrace(System.out);
        }
    }

    // What scenarios say again and again.

    static void equal(Object expected, Object actual) {
        if (!Objects.equals(expected, actual)) throw new AssertionError("expected " + expected + ", got " + actual);
    }

    static void await(CountDownLatch latch) throws InterruptedException {
        if (!latch.await(WAIT_SECONDS_MAX, TimeUnit.SECONDS)) throw new AssertionError(latch.getCount() + " missing");
    }

    static void await(Condition condition) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_SECONDS_MAX);
        while (!condition.holds()) {
            if (System.nanoTime() > deadline) throw new AssertionError("waited in vain");
            Thread.sleep(5);
        }
    }

    /** basic.get of a message that may still be on its way. */
    static GetResponse get(Channel channel, String queue, boolean autoAck) throws Exception {
        AtomicReference<GetResponse> found = new AtomicReference<>();
        await(() -> {
            found.set(channel.basicGet(queue, autoAck));
            return found.get() != null;
        });
        return found.get();
    }

    static String text(GetResponse response) {
        return new String(response.getBody(), StandardCharsets.UTF_8);
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String temporary(Channel channel, Object... arguments) throws IOException {
        return channel.queueDeclare("", false, true, true, map(arguments)).getQueue();
    }

    static Map<String, Object> map(Object... keysAndValues) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (int i = 0; i < keysAndValues.length; i += 2) map.put((String) keysAndValues[i], keysAndValues[i + 1]);
        return map;
    }

    static AMQP.BasicProperties headers(Object... keysAndValues) {
        return new AMQP.BasicProperties.Builder().headers(map(keysAndValues)).build();
    }

    /** The code with which the broker closes the channel or the connection because of the action; 0 when it does not. */
    static int closeCode(Action action) throws Exception {
        try {
            action.run();
        } catch (Exception problem) {
            for (Throwable cause = problem; cause != null; cause = cause.getCause()) {
                if (cause instanceof ShutdownSignalException) {
                    Method reason = ((ShutdownSignalException) cause).getReason();
                    return reason instanceof AMQP.Channel.Close
                            ? ((AMQP.Channel.Close) reason).getReplyCode()
                            : ((AMQP.Connection.Close) reason).getReplyCode();
                }
            }
            throw problem;
        }
        return 0;
    }

    // The scenarios, each with a channel of its own.

    void confirms(Channel channel) throws Exception {
        String queue = prefix + ".confirms";
        channel.queueDeclare(queue, true, false, false, null);
        channel.confirmSelect();
        for (int n = 0; n < 1000; n++)
            channel.basicPublish("", queue, MessageProperties.PERSISTENT_TEXT_PLAIN, bytes("m" + n));
        channel.waitForConfirmsOrDie(WAIT_SECONDS_MAX * 1000);
        equal(1000L, channel.messageCount(queue));
        GetResponse first = channel.basicGet(queue, true);
        equal("m0", text(first));
        equal(999, first.getMessageCount());
        equal(999, channel.queuePurge(queue).getMessageCount());
        channel.queueDelete(queue);
    }

    void rejectedPublishes(Channel channel) throws Exception {
        String queue = temporary(channel, "x-max-length", 2, "x-overflow", "reject-publish");
        Set<Long> acked = ConcurrentHashMap.newKeySet(), nacked = ConcurrentHashMap.newKeySet();
        Set<Long> open = new ConcurrentSkipListSet<>(Arrays.asList(1L, 2L, 3L, 4L));
        CountDownLatch answers = new CountDownLatch(4);
        channel.addConfirmListener(new ConfirmListener() {
            public void handleAck(long tag, boolean multiple) {
                settle(tag, multiple, acked);
            }

            public void handleNack(long tag, boolean multiple) {
                settle(tag, multiple, nacked);
            }

            void settle(long tag, boolean multiple, Set<Long> outcome) {
                for (long one : new ArrayList<>(open)) {
                    if (one == tag || multiple && one < tag) {
                        open.remove(one);
                        outcome.add(one);
                        answers.countDown();
                    }
                }
            }
        });
        channel.confirmSelect();
        for (int n = 0; n < 4; n++) channel.basicPublish("", queue, null, bytes("x"));
        await(answers);
        equal(new TreeSet<>(Arrays.asList(1L, 2L)), new TreeSet<>(acked));
        equal(new TreeSet<>(Arrays.asList(3L, 4L)), new TreeSet<>(nacked));
    }

    void consume(Channel channel) throws Exception {
        String queue = temporary(channel);
        channel.basicQos(10);
        for (int n = 0; n < 500; n++) channel.basicPublish("", queue, null, bytes("m" + n));
        List<String> seen = Collections.synchronizedList(new ArrayList<>());
        CountDownLatch latch = new CountDownLatch(500);
        String tag = channel.basicConsume(queue, false, new DefaultConsumer(channel) {
            public void handleDelivery(String tag, Envelope envelope, AMQP.BasicProperties properties, byte[] body)
                    throws IOException {
                seen.add(new String(body, StandardCharsets.UTF_8));
                getChannel().basicAck(envelope.getDeliveryTag(), false);
                latch.countDown();
            }
        });
        await(latch);
        equal("m0", seen.get(0));
        equal("m499", seen.get(499));
        Channel other = connection.createChannel();
        equal(1L, other.consumerCount(queue));
        other.close();
        channel.basicCancel(tag);
    }

    void returns(Channel channel) throws Exception {
        BlockingQueue<String> returned = new LinkedBlockingQueue<>();
        channel.addReturnListener((code, text, exchange, key, properties, body) ->
                returned.add(code + " " + text + " " + key + " " + new String(body, StandardCharsets.UTF_8)));
        channel.basicPublish("", prefix + ".nowhere", true, null, bytes("x"));
        equal("312 NO_ROUTE " + prefix + ".nowhere x", returned.poll(WAIT_SECONDS_MAX, TimeUnit.SECONDS));
    }

    void redelivery(Channel channel) throws Exception {
        String queue = temporary(channel);
        channel.basicPublish("", queue, null, bytes("x"));
        GetResponse message = get(channel, queue, false);
        equal(false, message.getEnvelope().isRedeliver());
        channel.basicNack(message.getEnvelope().getDeliveryTag(), false, true);
        message = get(channel, queue, false);
        equal(true, message.getEnvelope().isRedeliver());
        channel.basicRecover(true);
        equal("x", text(get(channel, queue, true)));
    }

    void content(Channel channel) throws Exception {
        String queue = temporary(channel);
        Map<String, Object> headers = map("text", "파발", "int", 1, "long", 1L << 40, "double", 1.5, "float", 2.5f,
                "true", true, "null", null, "short", (short) 3, "byte", (byte) 4,
                "list", Arrays.asList(1, "x", map("k", "v")), "date", new Date(1700000000000L),
                "bytes", new byte[] {1, 2, 3}, "decimal", new BigDecimal("3.14"));
        AMQP.BasicProperties sent = new AMQP.BasicProperties.Builder().headers(headers).contentType("text/plain")
                .contentEncoding("identity").deliveryMode(2).priority(5).correlationId("c").replyTo("r")
                .expiration("60000").messageId("m").timestamp(new Date(1700000000000L)).type("t").userId("guest")
                .appId("a").build();
        channel.basicPublish("", queue, sent, bytes("x"));
        AMQP.BasicProperties received = get(channel, queue, true).getProps();
        equal(headers.keySet(), received.getHeaders().keySet());
        for (String key : headers.keySet()) {
            Object before = headers.get(key), after = received.getHeaders().get(key);
            if (before instanceof byte[]) equal(Arrays.toString((byte[]) before), Arrays.toString((byte[]) after));
            else equal(String.valueOf(before), String.valueOf(after));
        }
        equal(sent.builder().headers(null).build().toString(), received.builder().headers(null).build().toString());
    }

    void exchanges(Channel channel) throws Exception {
        String topic = prefix + ".topic", headers = prefix + ".headers", queue = temporary(channel);
        channel.exchangeDeclare(topic, BuiltinExchangeType.TOPIC);
        channel.exchangeDeclare(headers, BuiltinExchangeType.HEADERS, false, true, null);
        channel.exchangeBind(headers, topic, "a.*");
        Map<String, Object> match = map("x-match", "all", "k", "v");
        channel.queueBind(queue, headers, "", match);
        channel.confirmSelect();
        channel.basicPublish(topic, "a.b", headers("k", "v", "other", 1), bytes("both"));
        channel.basicPublish(topic, "a.b", headers("k", "w"), bytes("other value"));
        channel.basicPublish(topic, "b.b", headers("k", "v"), bytes("other key"));
        channel.waitForConfirmsOrDie(WAIT_SECONDS_MAX * 1000);
        equal(1L, channel.messageCount(queue));
        channel.queueUnbind(queue, headers, "", match);
        channel.exchangeDelete(topic);
        equal(404, closeCode(() -> channel.exchangeDeclarePassive(headers)));
    }

    void deadLetters(Channel channel) throws Exception {
        String dead = temporary(channel);
        String work = temporary(channel, "x-dead-letter-exchange", "", "x-dead-letter-routing-key", dead,
                "x-message-ttl", 50, "x-max-length", 2);
        for (String reason : new String[] {"maxlen", "rejected", "expired"})
            channel.basicPublish("", work, null, bytes(reason));
        GetResponse refused = get(channel, work, false);
        channel.basicReject(refused.getEnvelope().getDeliveryTag(), false);
        Set<String> reasons = new TreeSet<>();
        for (int n = 0; n < 3; n++) {
            GetResponse letter = get(channel, dead, true);
            List<?> deaths = (List<?>) letter.getProps().getHeaders().get("x-death");
            Map<?, ?> death = (Map<?, ?>) deaths.get(0);
            equal(text(letter), death.get("reason").toString());
            equal(work, death.get("queue").toString());
            equal(1L, death.get("count"));
            reasons.add(text(letter));
        }
        equal(new TreeSet<>(Arrays.asList("maxlen", "rejected", "expired")), reasons);
    }

    void priorities(Channel channel) throws Exception {
        String queue = temporary(channel, "x-max-priority", 5);
        channel.confirmSelect();
        for (int priority : new int[] {1, 4, 0, 4, 9})
            channel.basicPublish("", queue, new AMQP.BasicProperties.Builder().priority(priority).build(),
                    bytes("" + priority));
        channel.waitForConfirmsOrDie(WAIT_SECONDS_MAX * 1000);
        StringBuilder order = new StringBuilder();
        for (int n = 0; n < 5; n++) order.append(text(channel.basicGet(queue, true)));
        equal("94410", order.toString());
    }

    void transactions(Channel channel) throws Exception {
        String queue = temporary(channel);
        channel.txSelect();
        channel.basicPublish("", queue, null, bytes("rolled back"));
        channel.txRollback();
        channel.basicPublish("", queue, null, bytes("committed"));
        equal(0L, channel.messageCount(queue));
        channel.txCommit();
        equal(1L, channel.messageCount(queue));
        long tag = channel.basicGet(queue, false).getEnvelope().getDeliveryTag();
        channel.basicAck(tag, false);
        channel.txRollback();
        channel.basicNack(tag, false, true);
        channel.txCommit();
        GetResponse again = channel.basicGet(queue, false);
        equal("committed", text(again));
        equal(true, again.getEnvelope().isRedeliver());
        channel.basicAck(again.getEnvelope().getDeliveryTag(), false);
        channel.txCommit();
        equal(null, channel.basicGet(queue, true));
    }

    void transactionsWithoutSelect(Channel channel) throws Exception {
        equal(406, closeCode(channel::txCommit));
        equal(406, closeCode(() -> connection.createChannel().txRollback()));
        Channel confirming = connection.createChannel();
        confirming.confirmSelect();
        equal(406, closeCode(confirming::txSelect));
    }

    void serve(Channel channel, String queue) throws IOException {
        RpcServer server = new StringRpcServer(channel, queue) {
            public String handleStringCall(String request, AMQP.BasicProperties properties) {
                return request.toUpperCase();
            }
        };
        Thread thread = new Thread(() -> {
            try {
                server.mainloop();
            } catch (Exception closed) {
                // The channel ends, and the server with it.
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    void rpc(Channel channel) throws Exception {
        String queue = temporary(channel);
        serve(channel, queue);
        Channel client = connection.createChannel();
        RpcClient calls = new RpcClient(client, "", queue, temporary(client), (int) WAIT_SECONDS_MAX * 1000);
        equal("HEY", calls.stringCall("hey"));
        client.close();
    }

    void directReplyTo(Channel channel) throws Exception {
        String queue = temporary(channel);
        serve(channel, queue);
        Channel client = connection.createChannel();
        RpcClient calls = new RpcClient(client, "", queue, "amq.rabbitmq.reply-to", (int) WAIT_SECONDS_MAX * 1000);
        for (int n = 0; n < 50; n++) equal("HO" + n, calls.stringCall("ho" + n));
        client.close();
    }

    void errors(Channel channel) throws Exception {
        String queue = prefix + ".errors";
        channel.queueDeclare(queue, false, true, true, null);
        equal(404, closeCode(() -> connection.createChannel().queueDeclarePassive(prefix + ".nowhere")));
        equal(406, closeCode(() -> connection.createChannel().queueDeclare(queue, true, true, false, null)));
        equal(406, closeCode(() -> {
            Channel other = connection.createChannel();
            other.basicAck(7, false);
            other.messageCount(queue);
        }));
        equal(403, closeCode(() -> connection.createChannel().exchangeDeclare("amq.new", "direct")));
        equal(503, closeCode(() -> {
            Connection own = factory.newConnection();
            own.createChannel().exchangeDeclare(prefix + ".unknown", "nosuchtype");
        }));
        Connection other = factory.newConnection();
        equal(405, closeCode(() -> other.createChannel().queueDeclare(queue, false, true, true, null)));
        other.close();
        channel.basicConsume(queue, false, "", false, true, null, new DefaultConsumer(channel));
        equal(403, closeCode(() -> {
            Channel second = connection.createChannel();
            second.basicConsume(queue, new DefaultConsumer(second));
        }));
    }

    void cancelNotification(Channel channel) throws Exception {
        String queue = prefix + ".cancelled";
        channel.queueDeclare(queue, false, false, false, null);
        CountDownLatch cancelled = new CountDownLatch(1);
        channel.basicConsume(queue, true, new DefaultConsumer(channel) {
            public void handleCancel(String tag) {
                cancelled.countDown();
            }
        });
        Channel other = connection.createChannel();
        other.queueDelete(queue);
        await(cancelled);
        other.close();
    }

    void largeMessage(Channel channel) throws Exception {
        String queue = temporary(channel);
        byte[] body = new byte[20_000_000];
        new Random(1).nextBytes(body);
        channel.confirmSelect();
        channel.basicPublish("", queue, null, body);
        channel.waitForConfirmsOrDie(WAIT_SECONDS_MAX * 1000);
        equal(true, Arrays.equals(body, channel.basicGet(queue, true).getBody()));
    }

    void manyChannels(Channel channel) throws Exception {
        List<Channel> channels = new ArrayList<>();
        for (int n = 0; n < 500; n++) channels.add(connection.createChannel());
        equal(500, (int) channels.stream().map(Channel::getChannelNumber).distinct().count());
        for (Channel one : channels) one.close();
    }

    void refusedConnections(Channel channel) throws Exception {
        ConnectionFactory wrongPassword = new ConnectionFactory();
        wrongPassword.setUri(uri);
        wrongPassword.setPassword("wrong");
        try {
            wrongPassword.newConnection();
            throw new AssertionError("a wrong password was taken");
        } catch (AuthenticationFailureException refused) {
            equal(true, refused.getMessage().contains("ACCESS_REFUSED"));
        }
        ConnectionFactory wrongVhost = new ConnectionFactory();
        wrongVhost.setUri(uri);
        wrongVhost.setVirtualHost("nowhere");
        equal(530, closeCode(wrongVhost::newConnection));
    }
}
