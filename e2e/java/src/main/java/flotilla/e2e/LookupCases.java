package flotilla.e2e;

import java.util.List;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Finding one message again: by offset id, by unique id, by key. */
final class LookupCases {
    private LookupCases() {
    }

    static void register(Matrix matrix) {
        matrix.add("message_is_found_by_its_offset_id", LookupCases::byOffsetId);
        matrix.add("message_is_found_by_its_unique_id", LookupCases::byUniqueId);
        matrix.add("messages_are_found_by_key", LookupCases::byKey);
        matrix.add("what_was_never_sent_is_not_found", LookupCases::missing);
    }

    private static Message keyed(String topic, int i) {
        Message message = World.message(topic, "t", "find " + i);
        message.setKeys("order" + i % 4 + " customer" + i);
        return message;
    }

    private static void byOffsetId(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        for (int i = 0; i < 10; i++) {
            SendResult result = producer.send(keyed(topic, i));
            MessageExt found = producer.viewMessage(topic, result.getOffsetMsgId());
            Expect.equal("find " + i, Inbox.body(found), "body by offset id");
            Expect.equal(result.getQueueOffset(), found.getQueueOffset(), "queue offset by offset id");
            Expect.equal(result.getMessageQueue().getQueueId(), found.getQueueId(), "queue by offset id");
        }
    }

    private static void byUniqueId(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        SendResult result = null;
        for (int i = 0; i < 10; i++) {
            result = producer.send(keyed(topic, i));
        }
        String id = result.getMsgId();
        Expect.eventually("found by unique id", 30_000,
            () -> "find 9".equals(Inbox.body(producer.viewMessage(topic, id))));
        Expect.equal(id, producer.viewMessage(topic, id).getMsgId(), "unique id of what was found");
    }

    private static void byKey(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        long begin = System.currentTimeMillis() - 1000;
        for (int i = 0; i < 12; i++) {
            producer.send(keyed(topic, i));
        }
        long end = System.currentTimeMillis() + 1000;
        Expect.eventually("one message with the key of one", 10_000,
            () -> producer.queryMessage(topic, "customer7", 32, begin, end).getMessageList().size() == 1);
        MessageExt one = producer.queryMessage(topic, "customer7", 32, begin, end).getMessageList().get(0);
        Expect.equal("find 7", Inbox.body(one), "body by key");
        QueryResult three = producer.queryMessage(topic, "order2", 32, begin, end);
        List<String> bodies = three.getMessageList().stream().map(Inbox::body).sorted().toList();
        Expect.equal(List.of("find 10", "find 2", "find 6"), bodies, "bodies by a shared key");
    }

    private static void missing(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        producer.send(keyed(topic, 1));
        long now = System.currentTimeMillis();
        Expect.fails(MQClientException.class, "a key that nobody has",
            () -> producer.queryMessage(topic, "nobody", 32, now - 10_000, now + 10_000));
    }
}
