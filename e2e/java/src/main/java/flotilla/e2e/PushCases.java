package flotilla.e2e;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.MessageExt;

/** DefaultMQPushConsumer alone in its group: concurrent, orderly, broadcasting, filtered, waiting, failing. */
final class PushCases {
    private static final long ARRIVAL_MS = 45_000;
    /** A message sent to a waiting consumer arrives sooner than this; half of the tries must. */
    private static final long LONG_POLL_MS = 200;

    private PushCases() {
    }

    static void register(Matrix matrix, Env env) {
        matrix.addAlone("waiting_consumer_gets_a_message_at_once", PushCases::longPolling);
        matrix.add("concurrent_consumer_gets_every_message_once", PushCases::concurrent);
        matrix.add("consumer_that_starts_first_gets_every_message", PushCases::startsFirst);
        matrix.add("orderly_consumer_keeps_the_order_of_queues", PushCases::orderly);
        matrix.add("orderly_consumer_retries_in_place", PushCases::orderlyRetry);
        matrix.add("broadcasting_reaches_every_consumer", PushCases::broadcasting);
        matrix.add("tag_filter_lets_only_its_tags_through", PushCases::tagFilter);
        matrix.add("tags_with_equal_hashes_are_told_apart", PushCases::tagCollision);
        matrix.add("failed_message_is_consumed_again", PushCases::retry);
        matrix.add("suspended_consumer_gets_nothing_until_resumed", PushCases::suspend);
    }

    static List<String> send(DefaultMQProducer producer, String topic, String tag, String prefix, int count) throws Exception {
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            String body = prefix + " " + i;
            producer.send(World.message(topic, tag, body));
            bodies.add(body);
        }
        return bodies;
    }

    private static void concurrent(World world) throws Exception {
        String topic = world.topic(8);
        List<String> bodies = send(world.producer(), topic, "t", "concurrent", 200);
        Inbox inbox = new Inbox();
        world.recording(world.group(), topic, "*", inbox);
        inbox.expectExactly(bodies, ARRIVAL_MS);
        for (MessageExt message : inbox.all()) {
            Expect.equal("t", message.getTags(), "tag");
            Expect.equal(topic, message.getTopic(), "topic");
        }
    }

    private static void startsFirst(World world) throws Exception {
        String topic = world.topic(4);
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = world.recording(world.group(), topic, "*", inbox);
        GroupCases.awaitQueues(consumer, topic, 4);
        inbox.expectExactly(send(world.producer(), topic, "t", "later", 100), ARRIVAL_MS);
    }

    private static void longPolling(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = world.recording(world.group(), topic, "*", inbox);
        GroupCases.awaitQueues(consumer, topic, 2);
        send(producer, topic, "t", "warm", 10);
        Expect.eventually("warm up arrives", ARRIVAL_MS, () -> inbox.size() == 10);
        List<Long> latencies = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            // The consumer has nothing to read and its pulls are parked at the broker while nothing arrives.
            int before = inbox.size();
            Expect.always("quiet", 300, () -> inbox.size() == before);
            String body = "ping " + i;
            long begin = System.nanoTime();
            producer.send(World.message(topic, "t", body));
            Expect.eventually(body + " arrives", ARRIVAL_MS, () -> inbox.arrivedNanos(body) != null);
            latencies.add((inbox.arrivedNanos(body) - begin) / 1_000_000);
        }
        latencies.sort(null);
        Expect.that(latencies.get(4) < LONG_POLL_MS, "milliseconds from send to arrival: " + latencies);
    }

    private static void orderly(World world) throws Exception {
        String topic = world.topic(4);
        DefaultMQProducer producer = world.producer();
        List<String> keys = List.of("red", "green", "blue", "grey", "pink");
        Map<String, List<String>> received = new ConcurrentHashMap<>();
        Map<Integer, AtomicBoolean> busy = new ConcurrentHashMap<>();
        AtomicInteger overlaps = new AtomicInteger();
        DefaultMQPushConsumer consumer = world.pushConsumer(world.group());
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            AtomicBoolean queue = busy.computeIfAbsent(context.getMessageQueue().getQueueId(), none -> new AtomicBoolean());
            if (!queue.compareAndSet(false, true)) {
                overlaps.incrementAndGet();
            }
            for (MessageExt message : messages) {
                received.computeIfAbsent(message.getTags(), none -> new ArrayList<>()).add(Inbox.body(message));
            }
            queue.set(false);
            return ConsumeOrderlyStatus.SUCCESS;
        });
        world.start(consumer);
        Map<String, List<String>> sent = new HashMap<>();
        for (int i = 0; i < 50; i++) {
            for (String key : keys) {
                String body = key + " " + i;
                producer.send(World.message(topic, key, body), new SelectMessageQueueByHash(), key);
                sent.computeIfAbsent(key, none -> new ArrayList<>()).add(body);
            }
        }
        Expect.eventually("all keys arrive", ARRIVAL_MS,
            () -> keys.stream().allMatch(key -> received.containsKey(key) && received.get(key).size() >= 50));
        Expect.equal(sent, received, "messages by key, in order, each once");
        Expect.equal(0, overlaps.get(), "queues consumed by two threads at once");
    }

    private static void orderlyRetry(World world) throws Exception {
        String topic = world.topic(1);
        List<String> bodies = send(world.producer(), topic, "t", "step", 5);
        List<String> attempts = new ArrayList<>();
        DefaultMQPushConsumer consumer = world.pushConsumer(world.group());
        consumer.setSuspendCurrentQueueTimeMillis(200);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            synchronized (attempts) {
                String body = Inbox.body(messages.get(0));
                attempts.add(body);
                boolean firstTryOfStepTwo = body.equals("step 2") && attempts.indexOf(body) == attempts.size() - 1;
                return firstTryOfStepTwo ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT : ConsumeOrderlyStatus.SUCCESS;
            }
        });
        world.start(consumer);
        List<String> expected = new ArrayList<>(bodies);
        expected.add(3, "step 2");
        Expect.eventually("all steps", ARRIVAL_MS, () -> {
            synchronized (attempts) {
                return attempts.size() >= expected.size();
            }
        });
        Expect.equal(expected, attempts, "attempts in order");
    }

    private static void broadcasting(World world) throws Exception {
        String topic = world.topic(4);
        String group = world.group();
        List<Inbox> inboxes = List.of(new Inbox(), new Inbox());
        for (Inbox inbox : inboxes) {
            DefaultMQPushConsumer consumer = world.pushConsumer(group);
            setBroadcasting(consumer);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(inbox::add);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            world.start(consumer);
            GroupCases.awaitQueues(consumer, topic, 4);
        }
        List<String> bodies = send(world.producer(), topic, "t", "all", 50);
        for (Inbox inbox : inboxes) {
            inbox.expectExactly(bodies, ARRIVAL_MS);
        }
    }

    /** MessageModel lives in another package in 5.x. */
    private static void setBroadcasting(DefaultMQPushConsumer consumer) throws Exception {
        var set = Arrays.stream(DefaultMQPushConsumer.class.getMethods())
            .filter(method -> method.getName().equals("setMessageModel")).findFirst().orElseThrow();
        for (Object model : set.getParameterTypes()[0].getEnumConstants()) {
            if (model.toString().equals("BROADCASTING")) {
                set.invoke(consumer, model);
                return;
            }
        }
        throw new AssertionError("no broadcasting model");
    }

    private static void tagFilter(World world) throws Exception {
        String topic = world.topic(4);
        DefaultMQProducer producer = world.producer();
        List<String> expected = new ArrayList<>();
        for (int i = 0; i < 30; i++) {
            for (String tag : List.of("A", "B", "C", "")) {
                producer.send(World.message(topic, tag, tag + " " + i));
                if (tag.equals("A") || tag.equals("B")) {
                    expected.add(tag + " " + i);
                }
            }
        }
        Inbox inbox = new Inbox();
        world.recording(world.group(), topic, "A || B", inbox);
        inbox.expectExactly(expected, ARRIVAL_MS);
        send(producer, topic, "C", "noise", 10);
        producer.send(World.message(topic, "A", "last"));
        expected.add("last");
        inbox.expectExactly(expected, ARRIVAL_MS);
    }

    private static void tagCollision(World world) throws Exception {
        Expect.equal("Aa".hashCode(), "BB".hashCode(), "hashes of the two tags");
        String topic = world.topic(1);
        DefaultMQProducer producer = world.producer();
        List<String> expected = send(producer, topic, "Aa", "wanted", 5);
        send(producer, topic, "BB", "unwanted", 5);
        expected.addAll(send(producer, topic, "Aa", "wanted too", 5));
        Inbox inbox = new Inbox();
        world.recording(world.group(), topic, "Aa", inbox);
        inbox.expectExactly(expected, ARRIVAL_MS);
    }

    private static void retry(World world) throws Exception {
        String topic = world.topic(2);
        List<String> bodies = send(world.producer(), topic, "t", "try", 6);
        Map<String, AtomicInteger> attempts = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = world.pushConsumer(world.group());
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            String body = Inbox.body(messages.get(0));
            int attempt = attempts.computeIfAbsent(body, none -> new AtomicInteger()).incrementAndGet();
            context.setDelayLevelWhenNextConsume(1);
            return body.equals("try 3") && attempt == 1
                ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        world.start(consumer);
        Expect.eventually("the failed message comes again", 40_000,
            () -> attempts.size() == bodies.size() && attempts.get("try 3").get() >= 2);
        Expect.equal(Set.copyOf(bodies), attempts.keySet(), "bodies");
        attempts.forEach((body, count) ->
            Expect.equal(body.equals("try 3") ? 2 : 1, count.get(), "attempts of " + body));
    }

    private static void suspend(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        Inbox inbox = new Inbox();
        DefaultMQPushConsumer consumer = world.recording(world.group(), topic, "*", inbox);
        List<String> bodies = send(producer, topic, "t", "before", 10);
        inbox.expectExactly(bodies, ARRIVAL_MS);
        consumer.suspend();
        bodies.addAll(send(producer, topic, "t", "during", 10));
        // A pull that was already parked may still bring what it waited for; after resuming, everything is there once.
        consumer.resume();
        inbox.expectExactly(bodies, ARRIVAL_MS);
    }
}
