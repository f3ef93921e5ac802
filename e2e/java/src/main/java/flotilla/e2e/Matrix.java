package flotilla.e2e;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Pattern;

/**
 * Runs every case of every client kind against one cluster and prints a line for each: {@code PASS name} or
 * {@code FAIL name: why}. Exits with the number of failures, at most 100.
 *
 * <p>Properties: {@code namesrv}, {@code http}, {@code expect.unsupported}, {@code auto.create}, {@code
 * template.topic}, {@code cases} (a regular expression), {@code threads}.
 */
public final class Matrix {
    interface Body {
        void run(World world) throws Exception;
    }

    private record Case(String name, Body body, boolean alone) {
    }

    private final List<Case> cases = new ArrayList<>();
    private final AtomicInteger passed = new AtomicInteger();
    private final AtomicInteger failed = new AtomicInteger();

    void add(String name, Body body) {
        cases.add(new Case(name, body, false));
    }

    /** A case that measures time runs with nothing beside it. */
    void addAlone(String name, Body body) {
        cases.add(new Case(name, body, true));
    }

    public static void main(String[] arguments) throws Exception {
        Matrix matrix = new Matrix();
        try (Env env = new Env()) {
            SendCases.register(matrix, env);
            PushCases.register(matrix, env);
            GroupCases.register(matrix, env);
            LitePullCases.register(matrix);
            PullCases.register(matrix);
            LookupCases.register(matrix);
            UnsupportedCases.register(matrix, env);
            matrix.run(env);
        }
        System.out.println("cases: " + matrix.passed + " passed, " + matrix.failed + " failed");
        System.exit(Math.min(matrix.failed.get(), 100));
    }

    private void run(Env env) throws InterruptedException {
        Pattern wanted = Pattern.compile(System.getProperty("cases", ".*"));
        ExecutorService pool = Executors.newFixedThreadPool(Integer.getInteger("threads", 4));
        for (Case one : cases) {
            if (one.alone && wanted.matcher(one.name).find()) {
                run(env, one);
            }
        }
        for (Case one : cases) {
            if (!one.alone && wanted.matcher(one.name).find()) {
                pool.execute(() -> run(env, one));
            }
        }
        pool.shutdown();
        if (!pool.awaitTermination(Integer.getInteger("timeout.seconds", 240), TimeUnit.SECONDS)) {
            failed.incrementAndGet();
            print("FAIL matrix: cases still running at the deadline");
        }
    }

    private void run(Env env, Case one) {
        long begin = System.nanoTime();
        try {
            try (World world = new World(env)) {
                one.body.run(world);
            }
            passed.incrementAndGet();
            print("PASS " + one.name + " (" + (System.nanoTime() - begin) / 1_000_000 + " ms)");
        } catch (Throwable e) {
            failed.incrementAndGet();
            print("FAIL " + one.name + ": " + describe(e));
        }
    }

    private static String describe(Throwable e) {
        StringBuilder text = new StringBuilder();
        for (Throwable cause = e; cause != null; cause = cause.getCause()) {
            text.append(text.length() == 0 ? "" : " <- ").append(cause);
            for (StackTraceElement frame : cause.getStackTrace()) {
                if (frame.getClassName().startsWith("flotilla.e2e.") && !frame.getClassName().contains("Expect")) {
                    text.append(" at ").append(frame.getFileName()).append(':').append(frame.getLineNumber());
                    break;
                }
            }
        }
        return text.toString().replace('\n', ' ');
    }

    private static synchronized void print(String line) {
        System.out.println(line);
        System.out.flush();
    }
}
