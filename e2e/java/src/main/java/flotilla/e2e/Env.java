package flotilla.e2e;

import java.lang.reflect.Method;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * The cluster under test: where it is, how topics are made there, and a reader of whole topics that the cases check against.
 *
 * <p>With {@code -Dhttp} topics are created through Flotilla's HTTP API, without it through the remoting protocol, so that
 * the same cases also run against a cluster of the original.
 */
final class Env implements AutoCloseable {
    final String nameServers = System.getProperty("namesrv", "127.0.0.1:9876");
    /** Host and port of the HTTP API, or null for a cluster that has none. */
    final String http = System.getProperty("http");
    /** Whether kinds of messages that Flotilla does not serve yet are expected to be refused. */
    final boolean expectUnsupported = Boolean.getBoolean("expect.unsupported");
    /** What a client names to create a topic like it: the cluster where topics are not created on first use. */
    final String templateTopic = System.getProperty("template.topic", "TBW102");
    /** Whether the cluster makes topics on the first send. */
    final boolean autoCreates = Boolean.getBoolean("auto.create");

    /** Several programs may start in the same millisecond. */
    private final String run = Long.toString(System.currentTimeMillis(), 36)
        + Long.toString(ProcessHandle.current().pid(), 36);
    private final AtomicInteger names = new AtomicInteger();
    private final HttpClient httpClient = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(5)).build();
    private final DefaultMQProducer admin = new DefaultMQProducer("admin-" + run);
    private final DefaultMQPullConsumer reader = new DefaultMQPullConsumer("reader-" + run);

    Env() throws Exception {
        admin.setNamesrvAddr(nameServers);
        admin.start();
        reader.setNamesrvAddr(nameServers);
        reader.start();
    }

    String unique(String prefix) {
        return prefix + "-" + run + "-" + names.incrementAndGet();
    }

    String createTopic(int queues) throws Exception {
        String topic = unique("topic");
        if (http != null) {
            HttpResponse<String> answer = send(HttpRequest.newBuilder(uri("/v1/topics/" + topic))
                .header("content-type", "application/json")
                .PUT(HttpRequest.BodyPublishers.ofString("{\"queues\":" + queues + "}")));
            Expect.that(answer.statusCode() == 200 || answer.statusCode() == 201,
                "create topic: " + answer.statusCode() + " " + answer.body());
        } else {
            createTopicByRemoting(topic, queues);
        }
        Expect.eventually("route of " + topic + " shows " + queues + " queues", 10_000,
            () -> reader.fetchSubscribeMessageQueues(topic).size() == queues);
        return topic;
    }

    /** 4.x: createTopic(key, topic, queues); 5.x adds a map of attributes. */
    void createTopicByRemoting(String topic, int queues) throws Exception {
        for (Method method : DefaultMQProducer.class.getMethods()) {
            if (!method.getName().equals("createTopic")) {
                continue;
            }
            Class<?>[] parameters = method.getParameterTypes();
            if (parameters.length == 3) {
                method.invoke(admin, templateTopic, topic, queues);
                return;
            }
            if (parameters.length == 4 && parameters[3] == Map.class) {
                method.invoke(admin, templateTopic, topic, queues, Map.of());
                return;
            }
        }
        throw new AssertionError("this client has no createTopic");
    }

    String get(String path) throws Exception {
        HttpResponse<String> answer = send(HttpRequest.newBuilder(uri(path)).GET());
        Expect.equal(200, answer.statusCode(), "GET " + path + " " + answer.body());
        return answer.body();
    }

    private URI uri(String path) {
        return URI.create("http://" + http + path);
    }

    private HttpResponse<String> send(HttpRequest.Builder request) throws Exception {
        return httpClient.send(request.timeout(Duration.ofSeconds(15)).build(), HttpResponse.BodyHandlers.ofString());
    }

    /** The readable queues of a topic in order of their numbers. */
    List<MessageQueue> queues(String topic) throws Exception {
        List<MessageQueue> queues = new ArrayList<>(reader.fetchSubscribeMessageQueues(topic));
        queues.sort(Comparator.comparingInt(MessageQueue::getQueueId));
        return queues;
    }

    /** Every message of the topic now, by queue, in order of queue offsets; offsets must be dense from 0. */
    Map<Integer, List<MessageExt>> dump(String topic) throws Exception {
        Map<Integer, List<MessageExt>> all = new TreeMap<>();
        for (MessageQueue queue : queues(topic)) {
            List<MessageExt> messages = new ArrayList<>();
            long end = reader.maxOffset(queue);
            while (messages.size() < end) {
                PullResult result = reader.pull(queue, "*", messages.size(), 32);
                Expect.equal(PullStatus.FOUND, result.getPullStatus(), "pull " + queue + " at " + messages.size());
                for (MessageExt message : result.getMsgFoundList()) {
                    Expect.equal((long) messages.size(), message.getQueueOffset(), "offsets of " + queue + " are dense");
                    Expect.equal(queue.getQueueId(), message.getQueueId(), "queue of a pulled message");
                    Expect.equal(topic, message.getTopic(), "topic of a pulled message");
                    messages.add(message);
                }
            }
            all.put(queue.getQueueId(), messages);
        }
        return all;
    }

    long count(String topic) throws Exception {
        long count = 0;
        for (MessageQueue queue : queues(topic)) {
            count += reader.maxOffset(queue) - reader.minOffset(queue);
        }
        return count;
    }

    /** Waits until the topic holds so many messages and returns them. */
    Map<Integer, List<MessageExt>> dump(String topic, long expected) throws Exception {
        Expect.eventually(topic + " holds " + expected + " messages", 10_000, () -> count(topic) >= expected);
        Map<Integer, List<MessageExt>> all = dump(topic);
        Expect.equal(expected, all.values().stream().mapToLong(List::size).sum(), "messages in " + topic);
        return all;
    }

    @Override
    public void close() {
        reader.shutdown();
        admin.shutdown();
    }
}
