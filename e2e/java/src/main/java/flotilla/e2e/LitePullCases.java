package flotilla.e2e;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.CommandCustomHeader;
import org.apache.rocketmq.remoting.RPCHook;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;

/** DefaultLitePullConsumer: subscribed and assigned. */
final class LitePullCases {
    private static final long ARRIVAL_MS = 45_000;

    private LitePullCases() {
    }

    static void register(Matrix matrix) {
        matrix.add("lite_pull_subscribe_reads_and_commits", LitePullCases::subscribe);
        matrix.add("lite_pull_filters_by_tag", LitePullCases::filter);
        matrix.add("lite_pull_assign_and_seek", LitePullCases::assign);
        matrix.add("lite_pull_commits_where_told", LitePullCases::commitWhereTold);
        matrix.add("lite_pull_consumers_share_queues", LitePullCases::share);
    }

    private static Inbox poll(DefaultLitePullConsumer consumer, Inbox inbox, List<String> bodies) throws Exception {
        Expect.eventually(bodies.size() + " messages polled", ARRIVAL_MS, () -> {
            consumer.poll(100).forEach(inbox::add);
            return inbox.size() >= bodies.size();
        });
        inbox.expectExactly(bodies, 0);
        return inbox;
    }

    /**
     * Polls exactly these bodies, the last of the queue, and returns when the pull task waits at the end of the queue.
     *
     * <p>Only then may the test seek. A seek cancels and interrupts the pull task that {@code assign} or an earlier
     * seek started, but the client looks at the cancellation before it takes the new offset, hands messages out and
     * moves its offset on (DefaultLitePullConsumerImpl.PullTaskImpl: nextPullOffset, putMessage, updatePullOffset).
     * A task that is there just then takes the new offset and drops it, or moves the offset of its successor on: after
     * a seek to the beginning the client asks the broker for the messages from 10 on, and the first ten never arrive;
     * or the first ten do, and some of those behind them do not; or some arrive twice. A task that waits for an answer
     * does none of this: the interrupt ends it.
     */
    private static void pollToEnd(DefaultLitePullConsumer consumer, PullWatch pulls, long end, List<String> bodies)
        throws Exception {
        poll(consumer, new Inbox(), bodies);
        Expect.eventually("the client waits at the end of the queue", ARRIVAL_MS, () -> pulls.waitsAt(end));
        Expect.equal(List.of(), consumer.poll(0), "messages after the last one");
    }

    /** Where the only pull task of a client stands; the client itself does not tell. */
    private static final class PullWatch implements RPCHook {
        private record Pull(long from, Thread thread) {
        }

        private volatile Pull last;

        /** Whether the task has asked for messages from here and waits for the answer. */
        boolean waitsAt(long offset) {
            Pull pull = last;
            return pull != null && pull.from == offset && pull.thread.getState() == Thread.State.TIMED_WAITING;
        }

        @Override
        public void doBeforeRequest(String address, RemotingCommand request) {
            // Its package is another one in 5.x.
            CommandCustomHeader header = request.readCustomHeader();
            if (header == null || !header.getClass().getSimpleName().equals("PullMessageRequestHeader")) {
                return;
            }
            try {
                long from = (Long) header.getClass().getMethod("getQueueOffset").invoke(header);
                last = new Pull(from, Thread.currentThread());
            } catch (ReflectiveOperationException e) {
                throw new IllegalStateException(e);
            }
        }

        @Override
        public void doAfterResponse(String address, RemotingCommand request, RemotingCommand response) {
        }
    }

    private static void subscribe(World world) throws Exception {
        String topic = world.topic(4);
        String group = world.group();
        DefaultMQProducer producer = world.producer();
        List<String> first = PushCases.send(producer, topic, "t", "lite", 60);
        DefaultLitePullConsumer consumer = world.litePullConsumer(group);
        consumer.setAutoCommit(false);
        consumer.subscribe(topic, "*");
        world.start(consumer);
        poll(consumer, new Inbox(), first);
        consumer.commitSync();
        Expect.eventually("committed", 10_000, () -> {
            long sum = 0;
            for (MessageQueue queue : world.env.queues(topic)) {
                sum += Math.max(0, consumer.committed(queue));
            }
            return sum == 60;
        });
        world.stop(consumer);
        List<String> second = PushCases.send(producer, topic, "t", "next", 20);
        DefaultLitePullConsumer again = world.litePullConsumer(group);
        again.subscribe(topic, "*");
        world.start(again);
        poll(again, new Inbox(), second);
    }

    private static void filter(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        PushCases.send(producer, topic, "C", "noise", 10);
        List<String> wanted = PushCases.send(producer, topic, "A", "a", 10);
        wanted.addAll(PushCases.send(producer, topic, "B", "b", 10));
        DefaultLitePullConsumer consumer = world.litePullConsumer(world.group());
        consumer.subscribe(topic, "A || B");
        world.start(consumer);
        poll(consumer, new Inbox(), wanted);
    }

    private static void assign(World world) throws Exception {
        String topic = world.topic(1);
        DefaultMQProducer producer = world.producer();
        List<String> old = PushCases.send(producer, topic, "t", "old", 20);
        PullWatch pulls = new PullWatch();
        DefaultLitePullConsumer consumer = world.litePullConsumer(world.group(), pulls);
        world.start(consumer);
        Collection<MessageQueue> queues = consumer.fetchMessageQueues(topic);
        Expect.equal(1, queues.size(), "queues fetched");
        MessageQueue queue = queues.iterator().next();
        consumer.assign(queues);
        pollToEnd(consumer, pulls, 20, old);
        consumer.seekToBegin(queue);
        pollToEnd(consumer, pulls, 20, old);
        consumer.seek(queue, 15);
        pollToEnd(consumer, pulls, 20, old.subList(15, 20));

        Expect.fails(MQClientException.class, "seek past the end", () -> consumer.seek(queue, 1000));

        consumer.seekToEnd(queue);
        Inbox tail = new Inbox();
        Expect.always("nothing after the end", 500, () -> {
            consumer.poll(50).forEach(tail::add);
            return tail.size() == 0;
        });
        long lastOfOld = world.env.dump(topic).get(0).get(19).getStoreTimestamp();
        Expect.eventually("the clock moves on", 5_000, () -> System.currentTimeMillis() > lastOfOld + 20);
        List<String> fresh = PushCases.send(producer, topic, "t", "fresh", 10);
        poll(consumer, tail, fresh);

        MessageExt firstFresh = world.env.dump(topic).get(0).get(20);
        Expect.equal("fresh 0", Inbox.body(firstFresh), "message at offset 20");
        Expect.equal(20L, consumer.offsetForTimestamp(queue, firstFresh.getStoreTimestamp()), "offset for a time");
        Expect.equal(0L, consumer.offsetForTimestamp(queue, 1L), "offset for a time before all");
        consumer.commitSync();
        Expect.eventually("committed at the end", 10_000, () -> consumer.committed(queue) == 30L);
    }

    private static void commitWhereTold(World world) throws Exception {
        String topic = world.topic(1);
        String group = world.group();
        DefaultMQProducer producer = world.producer();
        List<String> bodies = PushCases.send(producer, topic, "t", "m", 30);
        DefaultLitePullConsumer consumer = world.litePullConsumer(group);
        consumer.setAutoCommit(false);
        world.start(consumer);
        Collection<MessageQueue> queues = consumer.fetchMessageQueues(topic);
        MessageQueue queue = queues.iterator().next();
        consumer.assign(queues);
        poll(consumer, new Inbox(), bodies);
        consumer.commitSync(java.util.Map.of(queue, 12L), true);
        Expect.eventually("committed where told", 10_000, () -> consumer.committed(queue) == 12L);
        consumer.commitSync(java.util.Map.of(queue, 7L), true);
        Expect.eventually("committed further back", 10_000, () -> consumer.committed(queue) == 7L);
    }

    private static void share(World world) throws Exception {
        String topic = world.topic(4);
        String group = world.group();
        List<DefaultLitePullConsumer> consumers = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultLitePullConsumer consumer = world.litePullConsumer(group);
            consumer.subscribe(topic, "*");
            consumers.add(world.start(consumer));
        }
        Expect.eventually("each has two queues", 45_000, () -> {
            Set<MessageQueue> one = consumers.get(0).assignment();
            Set<MessageQueue> other = consumers.get(1).assignment();
            return one.size() == 2 && other.size() == 2 && one.stream().noneMatch(other::contains);
        });
        List<String> bodies = PushCases.send(world.producer(), topic, "t", "split", 40);
        Inbox inbox = new Inbox();
        Expect.eventually("all polled", ARRIVAL_MS, () -> {
            for (DefaultLitePullConsumer consumer : consumers) {
                consumer.poll(50).forEach(inbox::add);
            }
            return inbox.size() >= bodies.size();
        });
        inbox.expectExactly(bodies, 0);
    }
}
