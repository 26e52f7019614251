/*
 * Unwind tables as few write them, by hand, linked to a program: what reads such tables has to get past them.
 * A record with a 64-bit length, in LONG; a zero length in the middle, in ZERO; the frame of a signal handler, in SIGNAL.
 */
#include <sys/sdt.h>
.text
.globl odd
.type odd, @function
.balign 16, 0xcc
odd:
#ifdef SIGNAL
  .cfi_startproc
  .cfi_signal_frame
#endif
  push %rbx
#ifdef SIGNAL
  .cfi_def_cfa_offset 16
  .cfi_offset rbx, -16
#endif
.Lbody:
  mov %rdi, %rbx
  STAP_PROBE1(odd, odd, 8@%rdi)
  lea 1(%rbx), %rax
  pop %rbx
#ifdef SIGNAL
  .cfi_def_cfa_offset 8
  .cfi_restore rbx
#endif
.Lout:
  ret
#ifdef SIGNAL
  .cfi_endproc
#endif
.Lend:
.size odd, . - odd

#ifdef LONG
.section .eh_frame, "a", @unwind
.Lcie:
  .long .Lcie_end - .Lcie_id
.Lcie_id:
  .long 0
  .byte 1
  .asciz "zR"
  .uleb128 1
  .sleb128 -8
  .byte 16
  .uleb128 1
  .byte 0x1b
  .byte 0x0c, 7, 8          /* DW_CFA_def_cfa rsp 8 */
  .byte 0x90, 1             /* the return address */
  .balign 4
.Lcie_end:
  .long 0xffffffff
  .quad .Lfde_end - .Lfde_id
.Lfde_id:
  .long . - .Lcie
  .long odd - .
  .long .Lend - odd
  .uleb128 0
  .byte 0x40 + 1, 0x0e, 16, 0x83, 2
  .byte 0x40 + 10, 0x0e, 8
  .balign 4
.Lfde_end:
#endif
#ifdef ZERO
.section .eh_frame, "a", @unwind
  .long 0
#endif
.section .note.GNU-stack, "", @progbits
