# For gdb: runs a program, stops once at each of some addresses of one file, and says what the stack is there, from gdb's own
# unwinder. The task comes as JSON in the file that $STACKS_TASK names; the answer is one line of JSON behind "stacks: ".
#
# A frame is [name, file, address in the file as it was linked, CFA below that of the outermost frame that is told].
# With `steps`, new code is gone through by `stepi`, with a stack at each instruction, until it is left.
import json
import os

import gdb

task = json.load(open(os.environ["STACKS_TASK"]))
places = {int(p, 16) for p in task["places"]}
path = os.path.realpath(task["file"])
lowest = int(task["lowest"], 16)
code = [int(a, 16) for a in task["code"]]

def mappings():
    """Of the process, as [first, last, offset, path]."""
    found = []
    for line in open(f"/proc/{gdb.selected_inferior().pid}/maps"):
        words = line.split(None, 5)
        if len(words) == 6:
            first, last = (int(w, 16) for w in words[0].split("-"))
            found.append((first, last, int(words[2], 16), words[5].strip()))
    return found


def bias():
    """What is to be added to linked addresses; None while the file is not there."""
    for first, _, offset, name in mappings():
        if name == path and offset == 0:
            return first - lowest
    return None


class Stacks:
    def __init__(self):
        self.bases = {}

    def where(self, pc):
        """The file, and how far behind its first mapping."""
        for first, last, name, base in self.maps:
            if first <= pc < last:
                return name, pc - base
        return None, pc

    def look(self):
        """Reads the mappings anew: files come and go."""
        bases = {}
        self.maps = []
        for first, last, offset, name in mappings():
            if offset == 0 and name not in bases:
                bases[name] = first
            if name.startswith("/"):
                self.maps.append((first, last, name, bases.get(name, first)))

    def stack(self):
        self.look()
        frames = []
        frame = gdb.newest_frame()
        while frame is not None and len(frames) < task["depth"]:
            name, offset = self.where(frame.pc())
            # What the runtime itself has made has neither names nor unwind information: no frame above it means a thing.
            if name is None:
                break
            older = frame.older()
            cfa = int(older.read_register("rsp")) & (2**64 - 1) if older is not None else None
            frames.append([frame.name(), name, offset, cfa])
            frame = older
        outermost = next((f[3] for f in reversed(frames) if f[3] is not None), 0)
        return [
            [n, "the file" if f == path else os.path.basename(f), hex(o + lowest if f == path else o), None if c is None else outermost - c]
            for n, f, o, c in frames
        ]


gdb.execute("set pagination off")
gdb.execute("set confirm off")
gdb.execute("set width 0")
gdb.execute("set backtrace past-main on")
gdb.execute("set print thread-events off")
for name, value in task["environment"].items():
    gdb.execute(f"set environment {name} {value}")
gdb.execute(f"starti {task['arguments']}", to_string=True)

for line in task["settings"]:
    gdb.execute(line, to_string=True)

points = {}
state = {"bias": None}


def arm():
    if state["bias"] is None:
        state["bias"] = bias()
        if state["bias"] is not None:
            # What waits for the library.
            gdb.execute("delete", to_string=True)
            for place in places:
                # One that is deleted when it is hit.
                points[place] = gdb.Breakpoint(f"*{place + state['bias']:#x}", internal=True)
                points[place].silent = True


arm()
if state["bias"] is None:
    # As soon as the dynamic linker has mapped it; gdb stops for no other library.
    gdb.execute(f"catch load {os.path.basename(path)}", to_string=True)

stacks = Stacks()
answers = []
# Where the program stands already; None while it is to go on.
place = None
while gdb.selected_inferior().pid != 0 and len(answers) < len(places):
    if place is None:
        try:
            gdb.execute("continue", to_string=True)
        except gdb.error as error:
            # A program with threads that ends.
            if "No such process" not in str(error):
                raise
            break
        if gdb.selected_inferior().pid == 0:
            break
        if state["bias"] is None:
            arm()
            continue
        place = gdb.newest_frame().pc() - state["bias"]
        if place not in points:
            answers.append({"unexpected": hex(place), "thread": str(gdb.selected_thread())})
            break
    points.pop(place).delete()
    answer = {"place": hex(place), "stacks": [stacks.stack()]}
    answers.append(answer)
    place = None
    for _ in range(task["steps"]):
        frame = gdb.newest_frame()
        text = frame.architecture().disassemble(frame.pc())[0]["asm"]
        if "ret" in text or "call" in text:
            break
        gdb.execute("stepi", to_string=True)
        if gdb.selected_inferior().pid == 0:
            break
        at = gdb.newest_frame().pc() - state["bias"]
        if at in points:
            # The next probe: to go on from here would pass its breakpoint.
            place = at
            break
        if not code[0] <= at < code[1]:
            break
        answer["stacks"].append(stacks.stack())

print("stacks: " + json.dumps(answers), flush=True)
try:
    if gdb.selected_inferior().pid != 0:
        gdb.execute("kill", to_string=True)
except gdb.error:
    pass
