// Automatic recovery of the RabbitMQ Java client: java Recovery URI QUEUE
// Prints READY, waits until the connection broke and was recovered, and prints RECOVERED when a consumer of the durable queue,
// a consumer of an exclusive queue and the latter's binding are there again, and a message published before the break too.

import com.rabbitmq.client.*;

import java.nio.charset.StandardCharsets;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicBoolean;

public class Recovery {
    static final long WAIT_SECONDS_MAX = 20;

    public static void main(String[] arguments) {
        try {
            recover(arguments);
            System.out.println("RECOVERED");
            System.exit(0);
        } catch (Throwable problem) {
            problem.printStackTrace();
            System.exit(1);
        }
    }

    static void recover(String[] arguments) throws Exception {
        String queue = arguments[1];
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(arguments[0]);
        factory.setNetworkRecoveryInterval(100);
        Connection connection = factory.newConnection("Recovery");
        CountDownLatch recovered = new CountDownLatch(1);
        ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
            public void handleRecovery(Recoverable recoverable) {
                recovered.countDown();
            }

            public void handleRecoveryStarted(Recoverable recoverable) {
            }
        });

        Channel channel = connection.createChannel();
        channel.basicQos(1);
        channel.queueDeclare(queue, true, false, false, null);
        String exclusive = channel.queueDeclare().getQueue();
        channel.queueBind(exclusive, "amq.fanout", "");
        BlockingQueue<String> taken = new LinkedBlockingQueue<>(), copies = new LinkedBlockingQueue<>();
        AtomicBoolean settling = new AtomicBoolean();
        channel.basicConsume(queue, false, (tag, delivery) -> {
            // The first delivery is not settled before the break: it comes again.
            if (settling.getAndSet(true)) channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            taken.add(delivery.getEnvelope().isRedeliver() + " " + new String(delivery.getBody(), StandardCharsets.UTF_8));
        }, tag -> { });
        channel.basicConsume(exclusive, true, (tag, delivery) ->
                copies.add(new String(delivery.getBody(), StandardCharsets.UTF_8)), tag -> { });
        channel.confirmSelect();
        channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, "before".getBytes());
        channel.waitForConfirmsOrDie(WAIT_SECONDS_MAX * 1000);
        expect("false before", taken);
        System.out.println("READY");

        if (!recovered.await(WAIT_SECONDS_MAX, TimeUnit.SECONDS)) throw new AssertionError("no recovery");
        expect("true before", taken);
        channel.basicPublish("", queue, MessageProperties.PERSISTENT_BASIC, "after".getBytes());
        channel.basicPublish("amq.fanout", "", null, "copy".getBytes());
        expect("false after", taken);
        expect("copy", copies);
        channel.queueDelete(queue);
    }

    static void expect(String expected, BlockingQueue<String> messages) throws InterruptedException {
        String message = messages.poll(WAIT_SECONDS_MAX, TimeUnit.SECONDS);
        if (!expected.equals(message)) throw new AssertionError("expected " + expected + ", got " + message);
    }
}
