/*
 * An argument of the call lies below rsp when the probe is reached, and is read by another register: a call made before that
 * overwrites it. The call itself cannot move, since its callee looks at where it returns to,
 * nor can what stands before the site, which is entered.
 */
#include "plant.h"
/* Away from code that no symbol names, where anything may be a branch. */
.balign 256
.skip 256, 0xcc
EXPECT(107, 108)
FUNCTION(plant)
  sub $24, %rsp
  .cfi_adjust_cfa_offset 24
  lea -8(%rsp), %rdx
  mov %rdi, (%rdx)
  xor %edi, %edi
77: STAP_PROBE(plant, reads_below_rsp)
  mov (%rdx), %edi
  call add_seven
  add $24, %rsp
  .cfi_adjust_cfa_offset -24
  ret
END(plant)
.skip 300, 0xcc
FUNCTION(add_seven)
  lea 7(%rdi), %eax
  lea plant(%rip), %rdx
  cmp %rdx, (%rsp)
  jb 1f
  add $100, %eax
1: ret
END(add_seven)
.section .data.rel.ro, "aw"
.balign 8
.globl known_site
known_site: .quad 77b
