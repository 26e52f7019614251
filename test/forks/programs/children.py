# Forks children and says how they ended: by os.fork, several at a time; by multiprocessing (method fork), one at a time,
# since its bookkeeping looks at all that live and so passes more lines or fewer. Each child calls functions, raises,
# imports and collects garbage. Every tenth forks a child of its own.
#
#     children.py COUNT         half of them each way: the same probes in every run
#     children.py COUNT pool    a Pool whose workers do one task each, forked from a thread of its own
import collections
import gc
import multiprocessing
import os
import sys


class Node:
    pass


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def work(n):
    import colorsys  # not yet imported: each child finds and loads it itself

    one, other = Node(), Node()
    one.other, other.other = other, one
    del one, other
    try:
        raise ValueError(n)
    except ValueError as e:
        n = e.args[0]
    hue = colorsys.rgb_to_hsv(0.25, 0.5, n / 1000)[0]
    gc.collect()
    return (fib(n % 7) + int(hue * 100) + n) % 97


def forked(n):
    pid = os.fork()
    if pid == 0:
        if n % 10 == 0:
            child = forked(n + 1)
            if os.waitpid(child, 0)[1] != work(n + 1) << 8:
                os._exit(101)
        os._exit(work(n))
    return pid


def process(n):
    child = context.Process(target=lambda: sys.exit(work(n)))
    child.start()
    child.join()
    return child.exitcode


context = multiprocessing.get_context("fork")
count = int(sys.argv[1])
endings = collections.Counter()


def note(status):
    endings[f"signal {-status}" if status < 0 else "as it should" if status == expected[n] else f"exit {status}"] += 1


# The parent does the work before any child: its sites have been come by. colorsys is forgotten again.
expected = [work(n) for n in range(count)]
del sys.modules["colorsys"]

if sys.argv[2:] == ["pool"]:
    with context.Pool(4, maxtasksperchild=1) as pool:
        for n, result in enumerate(pool.map(work, range(count), chunksize=1)):
            note(result)
else:
    for first in range(0, count // 2, 4):
        batch = range(first, min(first + 4, count // 2))
        for n, pid in [(n, forked(n)) for n in batch]:
            note(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    for n in range(count // 2, count):
        note(process(n))
for ending, times in sorted(endings.items()):
    print(f"{ending}: {times}")
