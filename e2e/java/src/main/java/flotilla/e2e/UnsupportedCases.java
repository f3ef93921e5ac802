package flotilla.e2e;

import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Kinds of messages that are not served yet are refused with a clear code, and the connection goes on working. */
final class UnsupportedCases {
    private UnsupportedCases() {
    }

    static void register(Matrix matrix, Env env) {
        if (env.expectUnsupported) {
            matrix.add("delayed_message_is_refused", UnsupportedCases::delayed);
            matrix.add("half_message_is_refused", UnsupportedCases::transaction);
        }
    }

    private static void delayed(World world) throws Exception {
        String topic = world.topic(2);
        DefaultMQProducer producer = world.producer();
        Message message = World.message(topic, "t", "later");
        message.setDelayTimeLevel(3);
        MQBrokerException refused = Expect.fails(MQBrokerException.class, "delayed send", () -> producer.send(message));
        Expect.that(refused.getResponseCode() > 1, "a clear code: " + refused.getMessage());
        goesOn(world, producer, topic);
    }

    private static void transaction(World world) throws Exception {
        String topic = world.topic(2);
        TransactionMQProducer producer = new TransactionMQProducer(world.env.unique("transactions"));
        producer.setNamesrvAddr(world.env.nameServers);
        producer.setInstanceName(world.env.unique("instance"));
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        world.start(producer);
        MQClientException refused = Expect.fails(MQClientException.class, "half message",
            () -> producer.sendMessageInTransaction(World.message(topic, "t", "half"), null));
        Expect.that(refused.getCause() instanceof MQBrokerException, "refused by the broker: " + refused.getMessage());
        goesOn(world, producer, topic);
    }

    private static void goesOn(World world, DefaultMQProducer producer, String topic) throws Exception {
        SendResult result = producer.send(World.message(topic, "t", "ordinary"));
        Expect.equal(SendStatus.SEND_OK, result.getSendStatus(), "an ordinary send after the refusal");
        world.env.dump(topic, 1);
    }
}
