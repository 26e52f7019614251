"""Runs the machine code of the emulator's bench in Unicorn: a line of JSON in, a line of JSON out.

A request has "segments" ([address, size, hex]), "registers" (sixteen, by their number in encodings), "start" and "stop";
with "count" the instructions are counted, which is slow. The answer has the milliseconds and the registers at the end.
"""

import json
import sys
import time

import unicorn
from unicorn import x86_const

NAMES = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
REGISTERS = [getattr(x86_const, "UC_X86_REG_" + name.upper()) for name in NAMES]

print(json.dumps({"version": unicorn.__version__}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for address, size, content in request["segments"]:
        machine.mem_map(address, size)
        machine.mem_write(address, bytes.fromhex(content))
    for register, value in zip(REGISTERS, request["registers"]):
        machine.reg_write(register, value)
    count = [0]
    if request["count"]:

        def counting(_machine, _address, _size, _data):
            count[0] += 1

        machine.hook_add(unicorn.UC_HOOK_CODE, counting)
    begun = time.perf_counter()
    machine.emu_start(request["start"], request["stop"])
    elapsed = (time.perf_counter() - begun) * 1000
    registers = [str(machine.reg_read(register)) for register in REGISTERS]
    print(json.dumps({"ms": elapsed, "count": count[0], "registers": registers}), flush=True)
