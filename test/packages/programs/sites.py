# Passes every site that Python 3.11 has: calls and returns (generators and exceptions too), lines, imports that are found
# and that fail, garbage collections, audit events. Prints only what is the same in every run.
import gc
import sys

audited = []


def hook(event, args):
    if event.startswith("test."):
        audited.append(event)


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def squares(n):
    for i in range(n):
        yield i * i


class Knot:
    def __init__(self):
        self.self = self


def fails(depth):
    if depth == 0:
        raise ValueError("at the bottom")
    try:
        fails(depth - 1)
    finally:
        audited.append(depth)


def main():
    sys.addaudithook(hook)
    print(fibonacci(15), sum(squares(100)))
    for i in range(5):
        sys.audit("test.event", i)
    for name in ("json", "colorsys", "textwrap", "no_such_module_at_all"):
        try:
            print(name, __import__(name).__name__)
        except ImportError as e:
            print(name, type(e).__name__)
    gc.collect()
    knots = [Knot() for _ in range(200)]
    del knots
    # With line events on, the frame's own line table is walked as well.
    lines = 0

    def tracer(frame, event, arg):
        nonlocal lines
        lines += event == "line"
        return tracer

    sys.settrace(tracer)
    fibonacci(5)
    sys.settrace(None)
    try:
        fails(4)
    except ValueError as e:
        print(e, audited)
    print(gc.collect(), lines)


main()
