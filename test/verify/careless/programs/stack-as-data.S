/*
 * rsp walks over an array. Nothing notices that it was rewritten, as long as nobody attaches: then a nop5 writes into the array.
 */
#include "plant.h"
EXPECT(7, 7)
FUNCTION(plant)
  mov %rsp, %r8
  .cfi_def_cfa_register %r8
  lea array(%rip), %rsp
  xor %eax, %eax
  pop %rdx
  add %edx, %eax
77: STAP_PROBE(plant, stack_as_data)
  pop %rdx
  add %edx, %eax
  mov %r8, %rsp
  .cfi_def_cfa_register %rsp
  ret
END(plant)
.data
.skip 4096
.balign 8
array: .quad 3, 4
