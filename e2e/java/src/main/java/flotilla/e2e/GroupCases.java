package flotilla.e2e;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Consumer groups: sharing queues, handing over, and progress that outlives a consumer. */
final class GroupCases {
    private static final long ARRIVAL_MS = 45_000;
    /** Members are told of a change at once; the clients' own round would take up to 20 s. */
    private static final long REBALANCE_MS = 15_000;

    private GroupCases() {
    }

    static void register(Matrix matrix, Env env) {
        matrix.add("two_consumers_share_queues_and_one_takes_over", GroupCases::share);
        matrix.add("two_orderly_consumers_share_and_keep_order", GroupCases::shareOrderly);
        matrix.add("progress_survives_the_consumer", GroupCases::progress);
        matrix.add("groups_do_not_disturb_each_other", GroupCases::independent);
        if (env.http != null) {
            matrix.add("left_consumer_is_no_member", GroupCases::members);
        }
    }

    static Set<Integer> owned(DefaultMQPushConsumer consumer, String topic) {
        Set<Integer> queues = new TreeSet<>();
        for (MessageQueue queue : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
            if (queue.getTopic().equals(topic)) {
                queues.add(queue.getQueueId());
            }
        }
        return queues;
    }

    static void awaitQueues(DefaultMQPushConsumer consumer, String topic, int queues) throws Exception {
        Expect.eventually("consumer owns " + queues + " queues", 45_000, () -> owned(consumer, topic).size() == queues);
    }

    private static void awaitShared(DefaultMQPushConsumer one, DefaultMQPushConsumer other, String topic, int queues)
        throws Exception {
        Expect.eventually("two consumers share " + queues + " queues", 45_000, () -> {
            Set<Integer> both = owned(one, topic);
            both.retainAll(owned(other, topic));
            Set<Integer> all = owned(one, topic);
            all.addAll(owned(other, topic));
            return both.isEmpty() && all.size() == queues && owned(one, topic).size() == queues / 2;
        });
    }

    private static void share(World world) throws Exception {
        String topic = world.topic(8);
        String group = world.group();
        DefaultMQProducer producer = world.producer();
        Inbox firstInbox = new Inbox();
        Inbox secondInbox = new Inbox();
        DefaultMQPushConsumer first = world.recording(group, topic, "*", firstInbox);
        DefaultMQPushConsumer second = world.recording(group, topic, "*", secondInbox);
        awaitShared(first, second, topic, 8);
        List<String> bodies = PushCases.send(producer, topic, "t", "shared", 160);
        expectBetween(firstInbox, secondInbox, bodies);
        Expect.that(firstInbox.size() > 0 && secondInbox.size() > 0, "both consumers work");

        world.stop(second);
        Expect.eventually("the remaining consumer owns all", REBALANCE_MS, () -> owned(first, topic).size() == 8);
        bodies.addAll(PushCases.send(producer, topic, "t", "alone", 80));
        expectBetween(firstInbox, secondInbox, bodies);
    }

    private static void expectBetween(Inbox one, Inbox other, List<String> bodies) throws Exception {
        Expect.eventually(bodies.size() + " messages between them", ARRIVAL_MS, () -> {
            Set<String> found = new HashSet<>(one.bodies());
            found.addAll(other.bodies());
            return found.containsAll(bodies);
        });
        Expect.equal(bodies.size(), one.size() + other.size(), "messages between them, each once");
    }

    private static void shareOrderly(World world) throws Exception {
        String topic = world.topic(4);
        String group = world.group();
        DefaultMQProducer producer = world.producer();
        Map<String, List<String>> received = new ConcurrentHashMap<>();
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer consumer = world.pushConsumer(group);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                for (MessageExt message : messages) {
                    received.computeIfAbsent(message.getTags(), none -> new ArrayList<>()).add(Inbox.body(message));
                }
                return ConsumeOrderlyStatus.SUCCESS;
            });
            consumers.add(world.start(consumer));
        }
        awaitShared(consumers.get(0), consumers.get(1), topic, 4);
        Map<String, List<String>> sent = new ConcurrentHashMap<>();
        List<String> keys = List.of("one", "two", "three", "four", "five", "six");
        sendByKey(producer, topic, keys, sent, 0, 20);
        Expect.eventually("first half arrives", ARRIVAL_MS + 10_000, () -> total(received) >= total(sent));
        Expect.equal(sent, received, "first half in order, each once");
        world.stop(consumers.get(1));
        sendByKey(producer, topic, keys, sent, 20, 40);
        Expect.eventually("second half arrives at the one that stayed", ARRIVAL_MS + 20_000,
            () -> total(received) >= total(sent));
        Expect.equal(sent, received, "all in order, each once");
    }

    private static void sendByKey(DefaultMQProducer producer, String topic, List<String> keys,
        Map<String, List<String>> sent, int from, int to) throws Exception {
        for (int i = from; i < to; i++) {
            for (String key : keys) {
                producer.send(World.message(topic, key, key + " " + i), new SelectMessageQueueByHash(), key);
                sent.computeIfAbsent(key, none -> new ArrayList<>()).add(key + " " + i);
            }
        }
    }

    private static int total(Map<String, List<String>> messages) {
        return messages.values().stream().mapToInt(List::size).sum();
    }

    private static void progress(World world) throws Exception {
        String topic = world.topic(4);
        String group = world.group();
        DefaultMQProducer producer = world.producer();
        Inbox first = new Inbox();
        DefaultMQPushConsumer consumer = world.recording(group, topic, "*", first);
        List<String> before = PushCases.send(producer, topic, "t", "before", 60);
        first.expectExactly(before, ARRIVAL_MS);
        world.stop(consumer);
        DefaultMQPullConsumer reader = world.pullConsumer(group);
        Expect.eventually("offsets of the stopped consumer are stored", 10_000, () -> {
            long sum = 0;
            for (MessageQueue queue : world.env.queues(topic)) {
                sum += reader.fetchConsumeOffset(queue, true);
            }
            return sum == 60;
        });
        world.stop(reader);
        List<String> between = PushCases.send(producer, topic, "t", "between", 20);
        Inbox second = new Inbox();
        world.recording(group, topic, "*", second);
        second.expectExactly(between, ARRIVAL_MS);
    }

    private static void independent(World world) throws Exception {
        String topic = world.topic(4);
        List<String> bodies = PushCases.send(world.producer(), topic, "t", "each", 40);
        Inbox one = new Inbox();
        Inbox other = new Inbox();
        world.recording(world.group(), topic, "*", one);
        world.recording(world.group(), topic, "*", other);
        one.expectExactly(bodies, ARRIVAL_MS);
        other.expectExactly(bodies, ARRIVAL_MS);
    }

    private static void members(World world) throws Exception {
        String topic = world.topic(2);
        String group = world.group();
        DefaultMQPushConsumer consumer = world.recording(group, topic, "*", new Inbox());
        awaitQueues(consumer, topic, 2);
        Expect.that(world.env.get("/v1/consumer-groups/" + group).contains("\"client_id\""), "a running consumer is a member");
        world.stop(consumer);
        Expect.eventually("the stopped consumer is gone", 10_000,
            () -> !world.env.get("/v1/consumer-groups/" + group).contains("\"client_id\""));
    }
}
