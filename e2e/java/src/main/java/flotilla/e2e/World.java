package flotilla.e2e;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.remoting.RPCHook;

/** What one case makes: topics, consumer groups and clients of its own, shut down when it ends. */
final class World implements AutoCloseable {
    /** A client that takes longer than this to shut down hangs. */
    private static final long SHUTDOWN_MS_MAX = 10_000;
    /**
     * The client's own race: its ServiceThread forgets a wake-up that comes between the test and the reset of its latch,
     * and its RebalanceService then sleeps its whole interval before it sees that it was stopped.
     */
    private static final long REBALANCE_INTERVAL_MS = 20_000;
    private static final long REBALANCE_SLACK_MS = 1_000;

    final Env env;
    private final Deque<Runnable> shutdowns = new ArrayDeque<>();
    private final Map<Object, Runnable> byClient = new ConcurrentHashMap<>();

    World(Env env) {
        this.env = env;
    }

    String topic(int queues) throws Exception {
        return env.createTopic(queues);
    }

    String group() {
        return env.unique("group");
    }

    DefaultMQProducer producer() throws Exception {
        return start(prepareProducer());
    }

    DefaultMQProducer prepareProducer() {
        DefaultMQProducer producer = new DefaultMQProducer(env.unique("producer"));
        configure(producer);
        return producer;
    }

    DefaultMQProducer start(DefaultMQProducer producer) throws Exception {
        producer.start();
        track(producer, producer::shutdown);
        return producer;
    }

    /** A push consumer that reads a new group's topic from the start; the caller subscribes, sets a listener, starts it. */
    DefaultMQPushConsumer pushConsumer(String group) {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        configure(consumer);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return consumer;
    }

    /** Starts a concurrent push consumer that records what it gets. */
    DefaultMQPushConsumer recording(String group, String topic, String expression, Inbox inbox) throws Exception {
        DefaultMQPushConsumer consumer = pushConsumer(group);
        consumer.subscribe(topic, expression);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(inbox::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        return start(consumer);
    }

    DefaultMQPushConsumer start(DefaultMQPushConsumer consumer) throws Exception {
        consumer.start();
        track(consumer, consumer::shutdown);
        return consumer;
    }

    DefaultLitePullConsumer litePullConsumer(String group) {
        return litePullConsumer(group, null);
    }

    /** One whose requests the hook sees. */
    DefaultLitePullConsumer litePullConsumer(String group, RPCHook hook) {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group, hook);
        configure(consumer);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return consumer;
    }

    DefaultLitePullConsumer start(DefaultLitePullConsumer consumer) throws Exception {
        consumer.start();
        track(consumer, consumer::shutdown);
        return consumer;
    }

    DefaultMQPullConsumer pullConsumer(String group) throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(group);
        configure(consumer);
        consumer.start();
        track(consumer, consumer::shutdown);
        return consumer;
    }

    /** Shuts one client down before the case ends. */
    void stop(Object client) {
        byClient.get(client).run();
    }

    static Message message(String topic, String tag, String body) {
        return new Message(topic, tag, body.getBytes(java.nio.charset.StandardCharsets.UTF_8));
    }

    private void configure(ClientConfig client) {
        client.setNamesrvAddr(env.nameServers);
        client.setInstanceName(env.unique("instance"));
    }

    private void track(Object client, Runnable shutdown) {
        boolean[] done = new boolean[1];
        Runnable once = () -> {
            if (done[0]) {
                return;
            }
            done[0] = true;
            long begin = System.nanoTime();
            shutdown.run();
            long tookMs = (System.nanoTime() - begin) / 1_000_000;
            boolean missedWakeUp =
                tookMs >= REBALANCE_INTERVAL_MS && tookMs < REBALANCE_INTERVAL_MS + REBALANCE_SLACK_MS;
            Expect.that(tookMs < SHUTDOWN_MS_MAX || missedWakeUp, client.getClass().getSimpleName() + " took " + tookMs + " ms to shut down");
        };
        byClient.put(client, once);
        shutdowns.push(once);
    }

    @Override
    public void close() {
        AssertionError first = null;
        for (Runnable shutdown : shutdowns) {
            try {
                shutdown.run();
            } catch (AssertionError e) {
                first = first == null ? e : first;
            }
        }
        if (first != null) {
            throw first;
        }
    }
}
