// Passes the sites of the JVM that are no JNI function: threads that start, sleep, park, yield and are stopped, monitors
// that are fought over, waited on and notified, classes that are loaded, initialized in every way and unloaded, methods
// that are compiled, garbage collections, allocations. Prints only what is the same in every run.
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.locks.LockSupport;

public class Busy {
  static final int THREADS = 4;
  static final Object lock = new Object();
  static long shared;

  static class FailsToInitialize {
    static int value = Integer.parseInt("not a number");
  }

  static class ChildOfFailure extends FailsToInitialize {
    static int own = 1;
  }

  static class Recursive {
    static int value = Recursive.next() + 1;
    static int next() { return value + 41; }
  }

  static class Slow {
    static int value;
    static {
      try { Thread.sleep(200); } catch (InterruptedException e) { throw new AssertionError(e); }
      value = 7;
    }
  }

  /** Loaded again and again by loaders of its own, so that classes can be unloaded. */
  public static class Visitor {
    public static int visits;
    public int visit(int n) { visits += n; return visits; }
  }

  static class OwnLoader extends ClassLoader {
    @Override protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
      if (!name.equals("Busy$Visitor")) return super.loadClass(name, resolve);
      try (InputStream in = Busy.class.getResourceAsStream("Busy$Visitor.class")) {
        byte[] bytes = in.readAllBytes();
        return defineClass(name, bytes, 0, bytes.length);
      } catch (java.io.IOException e) {
        throw new ClassNotFoundException(name, e);
      }
    }
  }

  interface Shape { double area(); }
  record Square(double side) implements Shape { public double area() { return side * side; } }
  record Circle(double radius) implements Shape { public double area() { return 3 * radius * radius; } }

  static int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

  static int fails(int depth) {
    if (depth == 0) throw new IllegalStateException("bottom");
    try { return fails(depth - 1) + 1; } finally { synchronized (lock) { shared++; } }
  }

  static long garbage(int seed, int rounds) {
    TreeMap<String, int[]> kept = new TreeMap<>();
    long sum = 0;
    for (int i = 0; i < rounds; i++) {
      kept.put("key" + (i * 31 + seed) % 97, new int[200 + i % 50]);
      List<Shape> shapes = new ArrayList<>();
      for (int k = 0; k < 5; k++) shapes.add(k % 2 == 0 ? new Square(k) : new Circle(k));
      for (Shape s : shapes) sum += (long) s.area();
      byte[] large = new byte[i % 40 == 0 ? 600_000 : 4000];
      large[i % large.length] = 1;
      sum += large.length;
    }
    for (int[] a : kept.values()) sum += a.length;
    return sum;
  }

  static void monitors() throws Exception {
    CyclicBarrier barrier = new CyclicBarrier(THREADS);
    List<Thread> threads = new ArrayList<>();
    for (int t = 0; t < THREADS; t++) {
      threads.add(new Thread(() -> {
        try {
          barrier.await();
          for (int i = 0; i < 100; i++) {
            synchronized (lock) { shared++; if (i % 50 == 0) Thread.sleep(1); }
            Thread.yield();
          }
        } catch (Exception e) { throw new AssertionError(e); }
      }));
    }
    for (Thread t : threads) t.start();
    for (Thread t : threads) t.join();

    // Two players, each waits for the other's turn; the third waits until all are woken.
    int[] turn = {0};
    boolean[] over = {false};
    Thread waits = new Thread(() -> {
      synchronized (over) { while (!over[0]) { try { over.wait(); } catch (InterruptedException e) { return; } } }
    });
    waits.start();
    Thread[] players = new Thread[2];
    for (int p = 0; p < 2; p++) {
      int me = p;
      players[p] = new Thread(() -> {
        for (int i = 0; i < 100; i++) {
          synchronized (turn) {
            while (turn[0] % 2 != me) { try { turn.wait(5); } catch (InterruptedException e) { return; } }
            turn[0]++;
            turn.notify();
          }
        }
      });
      players[p].start();
    }
    for (Thread p : players) p.join();
    while (waits.getState() != Thread.State.WAITING) Thread.sleep(1);
    synchronized (over) { over[0] = true; over.notifyAll(); }
    waits.join();
    System.out.println("turns " + turn[0]);
  }

  @SuppressWarnings({"deprecation", "removal"})
  static void stops() throws Exception {
    CountDownLatch running = new CountDownLatch(1);
    boolean[] died = {false};
    Thread t = new Thread(() -> {
      try {
        running.countDown();
        while (true) Thread.sleep(1000);
      } catch (ThreadDeath d) {
        died[0] = true;
      } catch (InterruptedException e) {
        throw new AssertionError(e);
      }
    });
    t.start();
    running.await();
    t.stop();
    t.join();
    Thread parked = new Thread(LockSupport::park);
    parked.start();
    while (parked.getState() != Thread.State.WAITING) Thread.sleep(1);
    LockSupport.unpark(parked);
    parked.join();
    Thread interrupted = new Thread(() -> {
      try { Thread.sleep(60_000); } catch (InterruptedException e) { died[0] &= true; }
    });
    interrupted.start();
    interrupted.interrupt();
    interrupted.join();
    System.out.println("stopped " + died[0]);
  }

  static void initialization() throws Exception {
    for (int i = 0; i < 2; i++) {
      try { System.out.println(FailsToInitialize.value); } catch (Throwable e) { System.out.println(e.getClass().getName()); }
      try { System.out.println(ChildOfFailure.own); } catch (Throwable e) { System.out.println(e.getClass().getName()); }
    }
    System.out.println(Recursive.value);
    Thread[] both = new Thread[2];
    int[] seen = new int[2];
    for (int i = 0; i < 2; i++) {
      int me = i;
      both[i] = new Thread(() -> seen[me] = Slow.value);
      both[i].start();
    }
    for (Thread t : both) t.join();
    System.out.println("slow " + seen[0] + seen[1]);
  }

  static void loading() throws Exception {
    int visits = 0;
    for (int i = 0; i < 10; i++) {
      Object v = new OwnLoader().loadClass("Busy$Visitor").getDeclaredConstructor().newInstance();
      for (int k = 0; k < 2000; k++) visits += (int) v.getClass().getMethod("visit", int.class).invoke(v, 1) > 0 ? 1 : 0;
    }
    System.gc();
    System.gc();
    System.out.println("visits " + visits);
  }

  public static void main(String[] args) throws Exception {
    initialization();
    monitors();
    stops();
    loading();
    long[] sums = new long[THREADS];
    Thread[] workers = new Thread[THREADS];
    for (int t = 0; t < THREADS; t++) {
      int me = t;
      workers[t] = new Thread(() -> {
        sums[me] = garbage(me, 1500) + fibonacci(15);
        for (int i = 0; i < 100; i++) {
          try { fails(i % 8); } catch (IllegalStateException e) { sums[me] += e.getMessage().length(); }
        }
      });
      workers[t].start();
    }
    for (Thread t : workers) t.join();
    System.gc();
    for (long s : sums) System.out.println(s);
    System.out.println("shared " + shared);
    System.out.println("end of the program");
    // Whoever wants to look at the process says when it may end.
    if (args.length > 0) System.in.read();
  }
}
