/*
 * Probes with so little room that the way to new code leads through padding: `hops` has three bytes at its probe, and `relays` a short
 * branch into the bytes that are needed. Where they come from, two registers are on the stack. The padding inside of each
 * stands behind a ret, where the row says that nothing is; the padding behind each is in no function.
 */
#include <sys/sdt.h>

.macro begin name
.globl \name
.type \name, @function
\name: .cfi_startproc
  push %rbx
  .cfi_def_cfa_offset 16
  .cfi_offset 3, -16
  push %rbp
  .cfi_def_cfa_offset 24
  .cfi_offset 6, -24
  mov %rdi, %rbx
  lea 5(%rdi), %rbp
.endm

.macro end name
  lea (%rbx,%rbp), %rax
  pop %rbp
  .cfi_def_cfa_offset 16
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
.endm

.text
begin hops
  cmp $1, %edi
  je .Lsite
  cmp $2, %edi
  je .Lbehind
  .cfi_remember_state
  end hops
  .byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0
.Lsite:
  .cfi_restore_state
  STAP_PROBE(steps, hop)
  jmp .Lout
.Lbehind:
  add $1, %rbx
.Lout:
  end hops
  .cfi_endproc
.size hops, . - hops
  .byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0

begin relays
  cmp $1, %edi
  je .Lprobe
  cmp $2, %edi
  je .Linto
  .cfi_remember_state
  end relays
  .byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0
.Lprobe:
  .cfi_restore_state
  STAP_PROBE(steps, relay)
.Linto:
  add $2, %rbx
  end relays
  .cfi_endproc
.size relays, . - relays
  .byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0
  .byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0

.section .note.GNU-stack, "", @progbits
