package flotilla.e2e;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.rocketmq.common.message.MessageExt;

/** What one or more consumers received, in order of arrival. */
final class Inbox {
    private final List<MessageExt> messages = new ArrayList<>();
    private final Map<String, Long> arrivedNanos = new HashMap<>();

    synchronized void add(MessageExt message) {
        messages.add(message);
        arrivedNanos.putIfAbsent(body(message), System.nanoTime());
    }

    synchronized int size() {
        return messages.size();
    }

    synchronized List<MessageExt> all() {
        return new ArrayList<>(messages);
    }

    synchronized List<String> bodies() {
        List<String> bodies = new ArrayList<>();
        messages.forEach(message -> bodies.add(body(message)));
        return bodies;
    }

    synchronized Long arrivedNanos(String body) {
        return arrivedNanos.get(body);
    }

    /** Waits for exactly these bodies, each once, in any order. */
    void expectExactly(List<String> expected, long timeoutMs) throws Exception {
        Set<String> wanted = new HashSet<>(expected);
        Expect.eventually(wanted.size() + " messages arrive, have " + size(), timeoutMs,
            () -> new HashSet<>(bodies()).containsAll(wanted));
        List<String> found = bodies();
        Expect.equal(wanted, new HashSet<>(found), "bodies received");
        Expect.equal(wanted.size(), found.size(), "messages received, each once");
    }

    static String body(MessageExt message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }
}
