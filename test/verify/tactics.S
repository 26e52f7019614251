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

/* A short jump leads behind the probe, with padding behind itself. */
function widened
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  test %eax, %eax
  je 2f
  call external
  STAP_PROBE1(tactics, widened, 8@%rbx)
1:
  add $8, %rbx
  call external
  pop %rbx
  .cfi_remember_state
  .cfi_def_cfa_offset 8
  ret
  .cfi_restore_state
2:
  mov %rsi, %rbx
  jmp 1b
endfunction widened
.skip 16, 0x90

/* A short conditional branch leads behind the probe, and goes through padding. */
function relay
  push %rbx
  .cfi_def_cfa_offset 16
  call external
  test %eax, %eax
  js 2f
  call external
  STAP_PROBE(tactics, relay)
1:
  add $16, %rbx
  call external
  pop %rbx
  .cfi_remember_state
  .cfi_def_cfa_offset 8
  ret
  .cfi_restore_state
  nopl 0x100(%rax)
2:
  test %rsi, %rsi
  jne 1b
  call external
  ud2
endfunction relay

/* The same without padding: the branch itself moves, and what stands behind it. */
function moved
  push %rbx
  .cfi_def_cfa_offset 16
  .rept 66
  add %eax, %eax
  .endr
  call external
  test %eax, %eax
  js 2f
  call external
  STAP_PROBE(tactics, moved)
1:
  add $24, %rbx
  call external
  jmp 3f
2:
  test %rsi, %rsi
  je 1b
  lea 3(%rsi), %rbx
3:
  .rept 66
  add %eax, %eax
  .endr
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction moved

/* Two bytes of room, and padding that is out of a short jump's reach but for another one on the way. */
function hop_twice
  push %rbx
  .cfi_def_cfa_offset 16
  jmp 4f
  nopl 0x100(%rax)
4:
  .rept 50
  add %eax, %eax
  .endr
  test %edi, %edi
  je 5f
  jmp 2f
  nop
  nop
5:
  .rept 30
  add %ecx, %ecx
  .endr
  call external
1:
  STAP_PROBE(tactics, hop_twice)
  jmp 3f
2:
  mov %rdi, %rbx
  jmp 1b
3:
  .rept 66
  add %edx, %eax
  .endr
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction hop_twice

/* Three bytes of room in front of a call, into which a near branch leads, and padding. */
function hop_retarget
  push %rbx
  .cfi_def_cfa_offset 16
  test %edi, %edi
  .byte 0x0f, 0x88
  .long 1f - . - 4
  test %esi, %esi
  jne 3f
2:
  call external
3:
  STAP_PROBE1(tactics, hop_retarget, 8@%rdi)
1:
  mov %rdi, %rbx
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction hop_retarget
.skip 16, 0x90

/* Two bytes of room, and no padding. */
function evict
  push %rbx
  .cfi_def_cfa_offset 16
  test %edi, %edi
  .rept 27
  add %ecx, %eax
  lea 1(%rax), %ecx
  .endr
  jne 2f
  lea 9(%rax), %eax
  jmp 1f
3:
  .byte 0xe9
  .long 4f - . - 4
1:
  STAP_PROBE(tactics, evict)
  jmp 3b
2:
  mov %rdi, %rbx
  jmp 1b
4:
  .rept 66
  add %edx, %eax
  .endr
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction evict

/* Three bytes of room behind a call, and no padding: the call moves. */
function displace_call
  push %rbx
  .cfi_def_cfa_offset 16
  mov %rdi, %rbx
  .rept 27
  add %ecx, %eax
  lea 1(%rax), %ecx
  .endr
  test %edi, %edi
  jne 2f
  lea 7(%rax), %edi
  call known
  STAP_PROBE1(tactics, displace_call, 8@%rax)
  jmp 3f
2:
  add $9, %rax
3:
  .rept 27
  add %edx, %eax
  lea 1(%rax), %edx
  .endr
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction displace_call

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

/* The library's own: a call of it is a direct one, and its callee is known. */
.hidden known
function known
  lea 1(%rdi), %rax
  ret
endfunction known

.section .note.GNU-stack, "", @progbits
.data
/* Nothing else of the file is close by: what is not loaded stands elsewhere in a rewritten file. */
.skip 128
counter: .quad 7
.skip 128, 1
