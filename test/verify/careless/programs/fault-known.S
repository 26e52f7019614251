/*
 * The load in front of the site faults, and a handler finds the way out by the address of the load, which a table of pairs of
 * words names. Behind the site a loop begins: only the load can make room.
 * with: fault-handler.c
 */
#include "plant.h"
.balign 256
.skip 256, 0xcc
EXPECT(7, 5)
FUNCTION(plant)
  push %rbx
  .cfi_adjust_cfa_offset 8
  .cfi_offset %rbx, -16
  mov %edi, %ebx
  call handle_faults
  lea known_value(%rip), %rdx
  xor %ecx, %ecx
  test %ebx, %ebx
  cmove %rdx, %rcx
.Lload:
  mov 8(%rcx), %rax
  STAP_PROBE(plant, fault_known)
.Lloop:
  dec %ebx
  jg .Lloop
.Lout:
  pop %rbx
  .cfi_adjust_cfa_offset -8
  ret
  .cfi_adjust_cfa_offset 8
.Lfixed:
  mov $5, %eax
  jmp .Lout
END(plant)
.section .data
.balign 8
known_value: .quad 0, 7
.section fault_table, "a"
.balign 4
.long .Lload - ., .Lfixed - .
