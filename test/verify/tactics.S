/*
 * A function for each way of rewriting a probe, and some more for faults that are planted into what rewriting makes of them.
 * Nothing calls the functions: both sides are compared, no program is run.
 */
#include <sys/sdt.h>
.text
.macro function name
.globl \name
.type \name, @function
.balign 32, 0xcc
\name:
.cfi_startproc
.endm
.macro endfunction name
.cfi_endproc
.size \name, . - \name
.endm

/* Other nops give the room. */
function in_place
  push %rbp
  .cfi_def_cfa_offset 16
  mov %rdi, %rax
  STAP_PROBE1(tactics, in_place, 8@%rax)
  nopl 0(%rax)
  nopl 0x100(%rax)
  add $1, %rax
  pop %rbp
  .cfi_def_cfa_offset 8
  ret
endfunction in_place

/* The block moves up into the padding behind it. */
function shift
  mov 8(%rdi), %rax
  call external
  STAP_PROBE(tactics, shift)
  ret
endfunction shift
.balign 32, 0x90

/* The probe and what follows it become a jump; an operand is relative to %rip. */
function displace
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  STAP_PROBE2(tactics, displace, 8@%rdi, -4@8(%rsp))
  add counter(%rip), %rax
  mov 16(%rdi), %rcx
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction displace

/* A conditional branch moves. */
function branches
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  STAP_PROBE(tactics, branches)
  test %rdi, %rdi
  je 1f
  add $1, %rsi
  call external
1:
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction branches

/* Two instructions of one length, so that either may stand in the place of the other. */
function pairs
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  STAP_PROBE(tactics, pairs)
  mov %rdi, %rbx
  add %rsi, %rbx
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction pairs

/* Something leads to the instruction behind the probe. */
function straddle
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  cmpl $3, %edi
  je 1f
  mov %rsi, 24(%rdx)
  STAP_PROBE1(tactics, straddle, 8@%rsi)
1:
  mov %rax, (%rdx)
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction straddle

/* The room would take in the call. */
function call_through
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  test %eax, %eax
  jne 1f
  call external
1:
  STAP_PROBE1(tactics, call_through, 8@24(%rsp))
  mov %rbx, %rdi
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction call_through

/* A near branch leads behind the probe. */
function retarget
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  test %eax, %eax
  .byte 0x0f, 0x85
  .long 1f - . - 4
  .skip 200, 0x50
  jmp 2f
2:
  STAP_PROBE(tactics, retarget)
1:
  mov -8(%rdi), %rax
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction retarget

/* Two bytes of room, and padding behind the function. */
function hop
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  test %eax, %eax
  jne 2f
1:
  STAP_PROBE(tactics, hop)
  jmp 3f
2:
  lea 0x70(%rdi), %rdx
  call external
  jmp 1b
3:
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction hop
.balign 32, 0x90
.skip 32, 0x90

/* A leaf function that keeps a value below rsp. */
function guarded
  push %rbp
  .cfi_def_cfa_offset 16
  .cfi_offset 6, -16
  mov %rsp, %rbp
  .cfi_def_cfa_register 6
  mov %rdi, -8(%rbp)
  STAP_PROBE2(tactics, guarded, 8@-8(%rsp), 8@%rdi)
  mov %rsi, -16(%rbp)
  mov -8(%rbp), %rax
  pop %rbp
  .cfi_def_cfa 7, 8
  ret
endfunction guarded

/* Three bytes before the end of a page. */
.balign 4096, 0xcc
.skip 4064, 0xcc
function edge
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  mov %rcx, %rcx
.rept 10
  mov %eax, %eax
.endr
  STAP_PROBE(tactics, edge)
  nopl 0(%rax)
  nopl 0x100(%rax)
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction edge

/* No probe. */
function untouched
  mov $1, %eax
  add $2, %eax
  ret
endfunction untouched

/* No probe, and a nop of its own. */
function idle
  nopl (%rax)
  mov %rdi, %rax
  ret
endfunction idle

function external
  xor %eax, %eax
  ret
endfunction external

.section .note.GNU-stack, "", @progbits
.data
counter: .quad 7
