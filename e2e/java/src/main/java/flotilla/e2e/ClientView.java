package flotilla.e2e;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * What an application notices of a fault: every kind of sending and consuming at a steady rate, with the client's defaults,
 * and for each kind how many sends failed and the longest time without a success; of consumers the longest of any queue.
 *
 * <p>Standard input: {@code mark} starts counting anew; {@code report} prints one line a kind and {@code end}; the end of
 * the input ends the process. Standard output begins with {@code home ADDRESS ADDRESS...}, once all kinds run: the address
 * of the node under which this process sees all queues, and those it may send to as well.
 *
 * <pre>
 * kind sync failed 0 pause 112
 * </pre>
 */
public final class ClientView {
    private static final long PERIOD_MILLIS = 10;
    /** One client instance, and so one home, for all kinds. */
    private static final String INSTANCE = "client-view";

    /** Successes and failures of one kind. */
    private static final class Kind {
        final String name;
        /** Last success by queue; of senders there is one place for all. */
        private final Map<Integer, Long> last = new HashMap<>();
        private long longest;
        private long failed;
        private long succeeded;
        private String error = "";

        Kind(String name) {
            this.name = name;
        }

        synchronized void succeeded() {
            succeeded(0);
        }

        synchronized void succeeded(int queue) {
            long now = System.nanoTime();
            longest = Math.max(longest, now - last.getOrDefault(queue, now));
            last.put(queue, now);
            succeeded++;
        }

        synchronized void failed(Throwable why) {
            failed++;
            error = String.valueOf(why).split("\n")[0];
        }

        synchronized void mark() {
            longest = 0;
            failed = 0;
            last.replaceAll((queue, before) -> System.nanoTime());
            error = "";
        }

        synchronized long successes() {
            return succeeded;
        }

        synchronized String report() {
            long now = System.nanoTime();
            long open = last.values().stream().mapToLong(before -> now - before).max().orElse(0);
            long pause = Math.max(longest, open) / 1_000_000;
            return "kind " + name + " failed " + failed + " pause " + pause + (error.isEmpty() ? "" : " error " + error);
        }
    }

    private final String nameServers = System.getProperty("namesrv");
    private final String topic = System.getProperty("topic");
    private final String queueName = System.getProperty("queue.name");
    private final List<Kind> kinds = new ArrayList<>();
    private final AtomicBoolean stop = new AtomicBoolean();

    public static void main(String[] arguments) throws Exception {
        new ClientView().run();
        System.exit(0);
    }

    private void run() throws Exception {
        push("push", false);
        push("orderly", true);
        litePull();
        DefaultMQProducer producer = new DefaultMQProducer("client-view");
        producer.setNamesrvAddr(nameServers);
        producer.setInstanceName(INSTANCE);
        producer.start();
        sender("sync", (kind, text) -> {
            producer.send(World.message(topic, "sync", text));
            kind.succeeded();
        });
        Semaphore asynchronous = new Semaphore(64);
        sender("async", (kind, text) -> {
            asynchronous.acquire();
            producer.send(World.message(topic, "async", text), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    asynchronous.release();
                    kind.succeeded();
                }

                @Override
                public void onException(Throwable why) {
                    asynchronous.release();
                    kind.failed(why);
                }
            });
        });
        sender("selector", (kind, text) -> {
            producer.send(World.message(topic, "selector", text), new SelectMessageQueueByHash(), text);
            kind.succeeded();
        });
        sender("oneway", (kind, text) -> {
            producer.sendOneway(World.message(topic, "oneway", text));
            kind.succeeded();
        });
        while (kinds.stream().anyMatch(kind -> kind.successes() < 100)) {
            Thread.sleep(20);
        }
        StringBuilder doors = new StringBuilder();
        producer.fetchPublishMessageQueues(topic).stream().map(MessageQueue::getBrokerName).distinct().sorted()
            .filter(name -> !name.equals(queueName))
            .forEach(name -> doors.append(' ').append(address(producer, name)));
        print("home " + address(producer, queueName) + doors);
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            if (line.equals("mark")) {
                kinds.forEach(Kind::mark);
            } else if (line.equals("report")) {
                kinds.forEach(kind -> print(kind.report()));
                print("end");
            }
        }
        stop.set(true);
    }

    private static String address(DefaultMQProducer producer, String brokerName) {
        return producer.getDefaultMQProducerImpl().getMqClientFactory().findBrokerAddressInPublish(brokerName);
    }

    private interface Send {
        void send(Kind kind, String text) throws Exception;
    }

    private void sender(String name, Send send) {
        Kind kind = kind(name);
        Thread thread = new Thread(() -> {
            for (long number = 0; !stop.get(); number++) {
                try {
                    send.send(kind, name + "/" + number);
                } catch (Exception why) {
                    kind.failed(why);
                }
                java.util.concurrent.locks.LockSupport.parkNanos(PERIOD_MILLIS * 1_000_000);
            }
        }, name);
        thread.setDaemon(true);
        thread.start();
    }

    private Kind kind(String name) {
        Kind kind = new Kind(name);
        kinds.add(kind);
        return kind;
    }

    private void push(String name, boolean orderly) throws Exception {
        Kind kind = kind(name);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("client-view-" + name);
        consumer.setNamesrvAddr(nameServers);
        consumer.setInstanceName(INSTANCE);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        if (orderly) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                messages.forEach(message -> kind.succeeded(message.getQueueId()));
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(message -> kind.succeeded(message.getQueueId()));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        consumer.start();
    }

    private void litePull() throws Exception {
        Kind kind = kind("litepull");
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer("client-view-litepull");
        // Else it has a client instance of its own.
        consumer.setEnableStreamRequestType(false);
        consumer.setNamesrvAddr(nameServers);
        consumer.setInstanceName(INSTANCE);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.start();
        Thread thread = new Thread(() -> {
            while (!stop.get()) {
                consumer.poll(500).forEach(message -> kind.succeeded(message.getQueueId()));
            }
        }, "litepull");
        thread.setDaemon(true);
        thread.start();
    }

    private static synchronized void print(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
