package flotilla.e2e;

import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.exception.RemotingConnectException;

/**
 * A producer with default retries and a push consumer that run until told to stop, and write what they saw as JSON lines.
 *
 * <p>Some threads send plainly: the client may try a send at up to three addresses, so an error leaves its outcome unknown,
 * and one value may be stored once for each try. The other threads send by key with a selector: one try, so an error code
 * other than 1 says that nothing was stored. Where several of these programs send to one topic, {@code program} begins the
 * names of the senders, so that no two send the same value.
 *
 * <pre>
 * {"op":"send","producer":"ordered-0","value":"ordered-0/17","keyed":true,"result":"ok","queue":2,"offset":991,"begin":ns,"end":ns}
 * {"op":"send","producer":"plain-1","value":"plain-1/4","keyed":false,"result":"unknown","error":"...","begin":ns,"end":ns}
 * {"op":"receive","consumer":"c","value":"ordered-0/17","queue":2,"offset":991}
 * </pre>
 *
 * <p>Standard input: {@code stop} ends the producers and prints {@code stopped}; {@code exit} or the end of the input ends
 * the consumer and the process. Standard output: once a second {@code acked N unknown N failed N received N}, then
 * {@code done}.
 */
public final class Load {
    private final String nameServers = System.getProperty("namesrv");
    private final String topic = System.getProperty("topic");
    private final String group = System.getProperty("group");
    private final String program = System.getProperty("program", "");
    private final int ordered = Integer.getInteger("ordered", 2);
    private final int plain = Integer.getInteger("plain", 2);
    private final long pauseMicros = Long.getLong("pause.micros", 2000);
    private final AtomicBoolean stop = new AtomicBoolean();
    private final AtomicLong acked = new AtomicLong();
    private final AtomicLong unknown = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private final AtomicLong received = new AtomicLong();
    private final BufferedWriter history;

    private Load() throws IOException {
        history = Files.newBufferedWriter(Path.of(System.getProperty("history")));
    }

    public static void main(String[] arguments) throws Exception {
        new Load().run();
        System.exit(0);
    }

    private void run() throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(nameServers);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                String value = Inbox.body(message);
                write("{\"op\":\"receive\",\"consumer\":\"c\",\"value\":\"" + value + "\",\"queue\":" + message.getQueueId()
                    + ",\"offset\":" + message.getQueueOffset() + "}");
                received.incrementAndGet();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        DefaultMQProducer producer = new DefaultMQProducer("load-" + group);
        producer.setNamesrvAddr(nameServers);
        producer.start();

        List<Thread> senders = new ArrayList<>();
        for (int i = 0; i < ordered + plain; i++) {
            boolean keyed = i < ordered;
            String name = program + (keyed ? "ordered-" + i : "plain-" + (i - ordered));
            Thread sender = new Thread(() -> send(producer, name, keyed), name);
            sender.start();
            senders.add(sender);
        }
        Thread reporter = new Thread(this::report, "report");
        reporter.setDaemon(true);
        reporter.start();

        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null && !line.equals("exit"); line = input.readLine()) {
            if (line.equals("stop")) {
                stop.set(true);
                for (Thread sender : senders) {
                    sender.join();
                }
                print(counts());
                print("stopped");
            }
        }
        stop.set(true);
        for (Thread sender : senders) {
            sender.join();
        }
        producer.shutdown();
        consumer.shutdown();
        synchronized (history) {
            history.close();
        }
        print(counts());
        print("done");
    }

    private void send(DefaultMQProducer producer, String name, boolean keyed) {
        for (long sequence = 0; !stop.get(); sequence++) {
            String value = name + "/" + sequence;
            Message message = World.message(topic, keyed ? "ordered" : "plain", value);
            String start = "{\"op\":\"send\",\"producer\":\"" + name + "\",\"value\":\"" + value + "\",\"keyed\":" + keyed;
            long begin = System.nanoTime();
            try {
                SendResult result = keyed
                    ? producer.send(message, new SelectMessageQueueByHash(), name)
                    : producer.send(message);
                boolean ok = result.getSendStatus() == SendStatus.SEND_OK;
                (ok ? acked : unknown).incrementAndGet();
                write(start + ",\"result\":\"" + (ok ? "ok" : "unknown") + "\",\"queue\":" + result.getMessageQueue().getQueueId()
                    + ",\"offset\":" + result.getQueueOffset() + times(begin));
                pause(pauseMicros * 1000);
            } catch (InterruptedException e) {
                return;
            } catch (Exception e) {
                boolean certain = keyed && certainlyNotStored(e);
                (certain ? failed : unknown).incrementAndGet();
                write(start + ",\"result\":\"" + (certain ? "failed" : "unknown") + "\",\"error\":\"" + escape(e.toString())
                    + "\"" + times(begin));
                pause(20_000_000);
            }
        }
    }

    /** An answer with a code other than 1, or no connection: nothing was stored. Everything else may have been. */
    private static boolean certainlyNotStored(Exception e) {
        if (e instanceof MQBrokerException refused) {
            return refused.getResponseCode() != 1;
        }
        return e instanceof RemotingConnectException;
    }

    private static String times(long begin) {
        return ",\"begin\":" + begin + ",\"end\":" + System.nanoTime() + "}";
    }

    /** The rate limit of a sender, not a wait for anything. */
    private static void pause(long nanos) {
        java.util.concurrent.locks.LockSupport.parkNanos(nanos);
    }

    private void write(String line) {
        synchronized (history) {
            try {
                history.write(line);
                history.newLine();
            } catch (IOException e) {
                // A history with holes would prove nothing.
                e.printStackTrace();
                Runtime.getRuntime().halt(70);
            }
        }
    }

    private void report() {
        while (true) {
            print(counts());
            try {
                Thread.sleep(200);
            } catch (InterruptedException e) {
                return;
            }
        }
    }

    private String counts() {
        return "acked " + acked + " unknown " + unknown + " failed " + failed + " received " + received;
    }

    private static synchronized void print(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private static String escape(String text) {
        StringBuilder escaped = new StringBuilder();
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                escaped.append('\\').append(c);
            } else {
                escaped.append(c < 0x20 ? ' ' : c);
            }
        }
        return escaped.toString();
    }
}
