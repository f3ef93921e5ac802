package flotilla.e2e;

import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** DefaultMQPullConsumer: the application asks for offsets itself. */
final class PullCases {
    private PullCases() {
    }

    static void register(Matrix matrix) {
        matrix.addAlone("blocked_pull_returns_when_a_message_comes", PullCases::blocking);
        matrix.add("pull_reads_by_offset_and_says_why_not", PullCases::pull);
        matrix.add("pull_filters_by_tag", PullCases::filter);
        matrix.add("pull_consumer_keeps_its_offset", PullCases::offset);
        matrix.add("offsets_by_time_and_bounds", PullCases::byTime);
    }

    private static MessageQueue onlyQueue(DefaultMQPullConsumer consumer, String topic) throws Exception {
        Set<MessageQueue> queues = consumer.fetchSubscribeMessageQueues(topic);
        Expect.equal(1, queues.size(), "queues");
        return queues.iterator().next();
    }

    private static void pull(World world) throws Exception {
        String topic = world.topic(1);
        PushCases.send(world.producer(), topic, "t", "p", 50);
        DefaultMQPullConsumer consumer = world.pullConsumer(world.group());
        MessageQueue queue = onlyQueue(consumer, topic);
        PullResult result = consumer.pull(queue, "*", 10, 8);
        Expect.equal(PullStatus.FOUND, result.getPullStatus(), "status");
        Expect.equal(8, result.getMsgFoundList().size(), "messages");
        Expect.equal(18L, result.getNextBeginOffset(), "next begin offset");
        Expect.equal(0L, result.getMinOffset(), "min offset");
        Expect.equal(50L, result.getMaxOffset(), "max offset");
        for (int i = 0; i < 8; i++) {
            Expect.equal("p " + (10 + i), Inbox.body(result.getMsgFoundList().get(i)), "body");
        }
        PullResult atEnd = consumer.pull(queue, "*", 50, 8);
        Expect.equal(PullStatus.NO_NEW_MSG, atEnd.getPullStatus(), "status at the end");
        Expect.equal(50L, atEnd.getNextBeginOffset(), "next begin offset at the end");
        PullResult past = consumer.pull(queue, "*", 60, 8);
        Expect.equal(PullStatus.OFFSET_ILLEGAL, past.getPullStatus(), "status past the end");
        Expect.equal(50L, past.getNextBeginOffset(), "next begin offset past the end");
    }

    private static void filter(World world) throws Exception {
        String topic = world.topic(1);
        DefaultMQProducer producer = world.producer();
        PushCases.send(producer, topic, "no", "no", 10);
        PushCases.send(producer, topic, "yes", "yes", 10);
        DefaultMQPullConsumer consumer = world.pullConsumer(world.group());
        MessageQueue queue = onlyQueue(consumer, topic);
        long offset = 0;
        Inbox inbox = new Inbox();
        while (offset < 20) {
            PullResult result = consumer.pull(queue, "yes || maybe", offset, 32);
            Expect.that(result.getNextBeginOffset() > offset, "a filtered pull moves on from " + offset);
            if (result.getPullStatus() == PullStatus.FOUND) {
                result.getMsgFoundList().forEach(inbox::add);
            }
            offset = result.getNextBeginOffset();
        }
        Expect.equal(10, inbox.size(), "messages that match");
        Expect.that(inbox.bodies().stream().allMatch(body -> body.startsWith("yes")), "only matching ones");
    }

    private static void blocking(World world) throws Exception {
        String topic = world.topic(1);
        DefaultMQProducer producer = world.producer();
        PushCases.send(producer, topic, "t", "first", 1);
        DefaultMQPullConsumer consumer = world.pullConsumer(world.group());
        MessageQueue queue = onlyQueue(consumer, topic);
        CompletableFuture<PullResult> blocked = CompletableFuture.supplyAsync(() -> {
            try {
                return consumer.pullBlockIfNotFound(queue, "*", 1, 8);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        Expect.always("the pull waits", 1000, () -> !blocked.isDone());
        long begin = System.nanoTime();
        producer.send(World.message(topic, "t", "awaited"));
        PullResult result = blocked.get(10, TimeUnit.SECONDS);
        long tookMs = (System.nanoTime() - begin) / 1_000_000;
        Expect.equal(PullStatus.FOUND, result.getPullStatus(), "status");
        Expect.equal("awaited", Inbox.body(result.getMsgFoundList().get(0)), "body");
        Expect.that(tookMs < 1000, "milliseconds from send to answer: " + tookMs);
    }

    private static void offset(World world) throws Exception {
        String topic = world.topic(1);
        String group = world.group();
        PushCases.send(world.producer(), topic, "t", "o", 20);
        DefaultMQPullConsumer consumer = world.pullConsumer(group);
        MessageQueue queue = onlyQueue(consumer, topic);
        long none = consumer.fetchConsumeOffset(queue, true);
        // None yet; the original answers 0 where the topic is young enough to be read from its start.
        Expect.that(none == -1 || none == 0, "offset of a new group: " + none);
        // One way, and refused by the original until the first heartbeat has made the group, up to 30 s after the start.
        // Set each time: 5.x may send the query before the update, and then keeps the offset that it read.
        Expect.eventually("the offset is stored", 45_000, () -> {
            consumer.updateConsumeOffset(queue, 13);
            consumer.getDefaultMQPullConsumerImpl().getOffsetStore().persistAll(Set.of(queue));
            return consumer.fetchConsumeOffset(queue, true) == 13;
        });
        world.stop(consumer);
        DefaultMQPullConsumer again = world.pullConsumer(group);
        Expect.equal(13L, again.fetchConsumeOffset(onlyQueue(again, topic), true), "offset for the next consumer");
    }

    private static void byTime(World world) throws Exception {
        String topic = world.topic(1);
        DefaultMQProducer producer = world.producer();
        DefaultMQPullConsumer consumer = world.pullConsumer(world.group());
        MessageQueue queue = onlyQueue(consumer, topic);
        Expect.equal(0L, consumer.minOffset(queue), "min offset of an empty queue");
        Expect.equal(0L, consumer.maxOffset(queue), "max offset of an empty queue");
        for (int i = 0; i < 6; i++) {
            producer.send(World.message(topic, "t", "time " + i));
            Expect.always("a while", 20, () -> true);
        }
        List<MessageExt> stored = world.env.dump(topic, 6).get(0);
        Expect.equal(0L, consumer.minOffset(queue), "min offset");
        Expect.equal(6L, consumer.maxOffset(queue), "max offset");
        Expect.equal(stored.get(0).getStoreTimestamp(), consumer.earliestMsgStoreTime(queue), "earliest store time");
        for (int i = 1; i < 6; i++) {
            Expect.equal((long) i, consumer.searchOffset(queue, stored.get(i).getStoreTimestamp()), "offset at the time of " + i);
            Expect.equal((long) i, consumer.searchOffset(queue, stored.get(i - 1).getStoreTimestamp() + 1),
                "offset just after " + (i - 1));
        }
        Expect.equal(0L, consumer.searchOffset(queue, 1), "offset for a time before all");
    }
}
