package flotilla.e2e;

import java.util.Objects;

/** What a case says about the world: a condition that holds, or is awaited; never a fixed sleep. */
final class Expect {
    interface Condition {
        boolean holds() throws Exception;
    }

    interface Action {
        void run() throws Exception;
    }

    private Expect() {
    }

    static void that(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    static void equal(Object expected, Object found, String what) {
        if (!Objects.equals(expected, found)) {
            throw new AssertionError(what + ": expected " + expected + ", found " + found);
        }
    }

    /** Waits until the condition holds; a condition that throws does not hold yet. */
    static void eventually(String what, long timeoutMs, Condition condition) throws InterruptedException {
        long deadline = System.nanoTime() + timeoutMs * 1_000_000L;
        Exception last = null;
        while (true) {
            try {
                if (condition.holds()) {
                    return;
                }
                last = null;
            } catch (InterruptedException e) {
                throw e;
            } catch (Exception e) {
                last = e;
            }
            if (System.nanoTime() > deadline) {
                throw new AssertionError("not within " + timeoutMs + " ms: " + what, last);
            }
            Thread.sleep(20);
        }
    }

    /** Holds now and for all of the given time. */
    static void always(String what, long durationMs, Condition condition) throws Exception {
        long end = System.nanoTime() + durationMs * 1_000_000L;
        do {
            that(condition.holds(), "did not stay so for " + durationMs + " ms: " + what);
            Thread.sleep(20);
        } while (System.nanoTime() < end);
    }

    static <T extends Exception> T fails(Class<T> kind, String what, Action action) {
        try {
            action.run();
        } catch (Exception e) {
            if (kind.isInstance(e)) {
                return kind.cast(e);
            }
            throw new AssertionError(what + ": expected " + kind.getSimpleName() + ", found " + e, e);
        }
        throw new AssertionError(what + ": expected " + kind.getSimpleName() + ", but it succeeded");
    }
}
