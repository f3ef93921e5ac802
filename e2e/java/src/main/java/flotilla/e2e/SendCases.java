package flotilla.e2e;

import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Random;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** DefaultMQProducer: every way to send, checked against what the topic then holds. */
final class SendCases {
    private SendCases() {
    }

    static void register(Matrix matrix, Env env) {
        matrix.add("sync_send_is_stored_as_sent", SendCases::sync);
        matrix.add("sync_send_to_a_chosen_queue", SendCases::chosenQueue);
        matrix.add("async_sends_are_all_acked_and_stored", SendCases::async);
        matrix.add("one_way_sends_are_stored", SendCases::oneWay);
        matrix.add("batch_is_stored_in_order_in_one_queue", SendCases::batch);
        matrix.add("selector_keeps_order_by_key", SendCases::selector);
        matrix.add("compressed_body_comes_back_whole", SendCases::compressed);
        matrix.add("megabyte_of_noise_comes_back_whole", SendCases::large);
        matrix.add("vip_channel_serves_like_the_main_port", SendCases::vipChannel);
        if (setCompressType() != null) {
            for (String type : List.of("LZ4", "ZSTD", "ZLIB")) {
                matrix.add("compressed_by_" + type + "_comes_back_whole", world -> compressedBy(world, type));
            }
        }
        if (env.autoCreates) {
            matrix.add("first_send_creates_the_topic", SendCases::autoCreate);
        }
        matrix.add("topic_created_by_the_client_is_usable", SendCases::createTopic);
    }

    private static void sync(World world) throws Exception {
        String topic = world.topic(4);
        DefaultMQProducer producer = world.producer();
        long before = System.currentTimeMillis();
        Map<String, SendResult> results = new HashMap<>();
        for (int i = 0; i < 40; i++) {
            Message message = World.message(topic, "Tag" + i % 3, "sync " + i);
            message.setKeys("key" + i);
            message.setFlag(i);
            message.putUserProperty("colour", "blü \u4e2d " + i);
            SendResult result = producer.send(message);
            Expect.equal(SendStatus.SEND_OK, result.getSendStatus(), "status of send " + i);
            results.put("sync " + i, result);
        }
        Map<Integer, List<MessageExt>> stored = world.env.dump(topic, 40);
        Expect.equal(4, stored.size(), "queues read");
        for (List<MessageExt> queue : stored.values()) {
            Expect.that(!queue.isEmpty(), "round robin reaches every queue");
            for (MessageExt message : queue) {
                String body = Inbox.body(message);
                int i = Integer.parseInt(body.substring(5));
                SendResult result = results.remove(body);
                Expect.that(result != null, "stored once: " + body);
                Expect.equal(result.getMessageQueue().getQueueId(), message.getQueueId(), "queue of " + body);
                Expect.equal(result.getQueueOffset(), message.getQueueOffset(), "offset of " + body);
                Expect.equal(result.getMsgId(), message.getMsgId(), "unique id of " + body);
                Expect.equal("Tag" + i % 3, message.getTags(), "tag of " + body);
                Expect.equal("key" + i, message.getKeys().trim(), "keys of " + body);
                Expect.equal(i, message.getFlag(), "flag of " + body);
                Expect.equal("blü \u4e2d " + i, message.getUserProperty("colour"), "property of " + body);
                Expect.equal(0, message.getReconsumeTimes(), "reconsume times of " + body);
                Expect.that(message.getStoreTimestamp() >= before - 1000
                    && message.getStoreTimestamp() <= System.currentTimeMillis() + 1000, "store time is now");
                Expect.that(message.getBornTimestamp() >= before, "born time is now");
                Expect.that(message.getBornHost() != null && message.getStoreHost() != null, "hosts are set");
            }
        }
        Expect.equal(0, results.size(), "acked messages that are not stored");
    }

    private static void chosenQueue(World world) throws Exception {
        String topic = world.topic(3);
        DefaultMQProducer producer = world.producer();
        for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
            SendResult result = producer.send(World.message(topic, "", "to " + queue.getQueueId()), queue);
            Expect.equal(queue, result.getMessageQueue(), "queue of the result");
        }
        long expected = producer.fetchPublishMessageQueues(topic).size();
        world.env.dump(topic, expected).forEach((queue, messages) -> messages.forEach(
            message -> Expect.equal("to " + queue, Inbox.body(message), "body in queue " + queue)));
    }

    private static void async(World world) throws Exception {
        String topic = world.topic(4);
        DefaultMQProducer producer = world.producer();
        int count = 200;
        CountDownLatch answered = new CountDownLatch(count);
        Queue<String> errors = new ConcurrentLinkedQueue<>();
        Queue<String> places = new ConcurrentLinkedQueue<>();
        for (int i = 0; i < count; i++) {
            producer.send(World.message(topic, "async", "async " + i), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    places.add(result.getMessageQueue().getQueueId() + "/" + result.getQueueOffset());
                    answered.countDown();
                }

                @Override
                public void onException(Throwable e) {
                    errors.add(e.toString());
                    answered.countDown();
                }
            });
        }
        Expect.that(answered.await(15, TimeUnit.SECONDS), "answers missing: " + answered.getCount());
        Expect.that(errors.isEmpty(), "async errors: " + errors.peek());
        Expect.equal((long) count, places.stream().distinct().count(), "different places");
        Map<Integer, List<MessageExt>> stored = world.env.dump(topic, count);
        long bodies = stored.values().stream().flatMap(List::stream).map(Inbox::body).distinct().count();
        Expect.equal((long) count, bodies, "different bodies");
    }

    private static void oneWay(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        for (int i = 0; i < 50; i++) {
            producer.sendOneway(World.message(topic, "oneway", "one way " + i));
        }
        Map<Integer, List<MessageExt>> stored = world.env.dump(topic, 50);
        long bodies = stored.values().stream().flatMap(List::stream).map(Inbox::body).distinct().count();
        Expect.equal(50L, bodies, "different bodies");
    }

    private static void batch(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        MessageQueue target = producer.fetchPublishMessageQueues(topic).get(0);
        for (int round = 0; round < 3; round++) {
            List<Message> messages = new ArrayList<>();
            for (int i = 0; i < 20; i++) {
                Message message = World.message(topic, "batch", "batch " + (round * 20 + i));
                message.setKeys("k" + i);
                message.putUserProperty("place", Integer.toString(i));
                messages.add(message);
            }
            SendResult result = producer.send(messages, target);
            Expect.equal(SendStatus.SEND_OK, result.getSendStatus(), "status of the batch");
            Expect.equal(round * 20L, result.getQueueOffset(), "offset of the batch's first message");
            Expect.equal(20, result.getMsgId().split(",").length, "unique ids of the batch");
        }
        List<MessageExt> stored = world.env.dump(topic, 60).get(target.getQueueId());
        Expect.equal(60, stored.size(), "messages in the one queue");
        for (int i = 0; i < 60; i++) {
            Expect.equal("batch " + i, Inbox.body(stored.get(i)), "order of the batch");
            Expect.equal(Integer.toString(i % 20), stored.get(i).getUserProperty("place"), "property in a batch");
            Expect.equal("batch", stored.get(i).getTags(), "tag in a batch");
        }
    }

    private static void selector(World world) throws Exception {
        String topic = world.topic(4);
        DefaultMQProducer producer = world.producer();
        Map<String, Integer> queueOf = new HashMap<>();
        Map<String, Long> last = new HashMap<>();
        for (int i = 0; i < 25; i++) {
            for (String key : List.of("ann", "bob", "cyd", "dee", "eve")) {
                SendResult result = producer.send(
                    World.message(topic, key, key + " " + i), new SelectMessageQueueByHash(), key);
                int queue = result.getMessageQueue().getQueueId();
                Expect.equal(queue, queueOf.computeIfAbsent(key, none -> queue), "queue of " + key);
                Long before = last.put(key, result.getQueueOffset());
                Expect.that(before == null || before < result.getQueueOffset(), "offsets of " + key + " grow");
            }
        }
        Map<Integer, List<MessageExt>> stored = world.env.dump(topic, 125);
        for (String key : queueOf.keySet()) {
            int next = 0;
            for (MessageExt message : stored.get(queueOf.get(key))) {
                if (message.getTags().equals(key)) {
                    Expect.equal(key + " " + next++, Inbox.body(message), "order of " + key);
                }
            }
            Expect.equal(25, next, "messages of " + key);
        }
    }

    private static void compressed(World world) throws Exception {
        sendCompressed(world, world.producer());
    }

    private static void compressedBy(World world, String type) throws Exception {
        DefaultMQProducer producer = world.prepareProducer();
        Method set = setCompressType();
        @SuppressWarnings({"unchecked", "rawtypes"})
        Object value = Enum.valueOf((Class) set.getParameterTypes()[0], type);
        set.invoke(producer, value);
        sendCompressed(world, world.start(producer));
    }

    private static void sendCompressed(World world, DefaultMQProducer producer) throws Exception {
        String topic = world.topic(1);
        byte[] body = "a body that repeats itself, ".repeat(4000).getBytes();
        producer.send(new Message(topic, "big", body));
        MessageExt stored = world.env.dump(topic, 1).get(0).get(0);
        Expect.that(stored.getStoreSize() < body.length / 4, "compressed by the client: " + stored.getStoreSize() + " bytes stored");
        Expect.that(Arrays.equals(body, stored.getBody()), "body of " + body.length + " bytes");
        Inbox inbox = new Inbox();
        world.recording(world.group(), topic, "*", inbox);
        Expect.eventually("the push consumer gets it", 45_000, () -> inbox.size() == 1);
        Expect.that(Arrays.equals(body, inbox.all().get(0).getBody()), "body pushed");
    }

    private static Method setCompressType() {
        return Arrays.stream(DefaultMQProducer.class.getMethods())
            .filter(method -> method.getName().equals("setCompressType")).findFirst().orElse(null);
    }

    private static void large(World world) throws Exception {
        String topic = world.topic(1);
        byte[] body = new byte[1 << 20];
        new Random(7).nextBytes(body);
        DefaultMQProducer producer = world.producer();
        producer.setSendMsgTimeout(10_000);
        producer.send(new Message(topic, "noise", body));
        Expect.that(Arrays.equals(body, world.env.dump(topic, 1).get(0).get(0).getBody()), "body of one megabyte");
    }

    private static void vipChannel(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.prepareProducer();
        producer.setVipChannelEnabled(true);
        world.start(producer);
        List<String> bodies = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            producer.send(World.message(topic, "vip", "vip " + i));
            bodies.add("vip " + i);
        }
        Inbox inbox = new Inbox();
        var consumer = world.pushConsumer(world.group());
        consumer.setVipChannelEnabled(true);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener(
            (org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(inbox::add);
                return org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        world.start(consumer);
        inbox.expectExactly(bodies, 45_000);
    }

    private static void autoCreate(World world) throws Exception {
        String topic = world.env.unique("auto");
        DefaultMQProducer producer = world.producer();
        producer.send(World.message(topic, "", "first"));
        Expect.equal(1L, world.env.count(topic), "messages in the new topic");
        Inbox inbox = new Inbox();
        world.recording(world.group(), topic, "*", inbox);
        inbox.expectExactly(List.of("first"), 45_000);
    }

    private static void createTopic(World world) throws Exception {
        String topic = world.env.unique("made");
        world.env.createTopicByRemoting(topic, 5);
        DefaultMQProducer producer = world.producer();
        Expect.eventually("5 queues", 10_000, () -> world.env.queues(topic).size() == 5);
        for (int i = 0; i < 10; i++) {
            producer.send(World.message(topic, "", "made " + i));
        }
        world.env.dump(topic, 10);
    }
}
