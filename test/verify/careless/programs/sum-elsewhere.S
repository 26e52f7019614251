/*
 * A dispatcher adds a short word to an address of its own, and jumps behind a site in the function that follows it: which
 * words there are cannot be known, and nothing else names the place.
 */
#include "plant.h"
EXPECT(7, 5)
FUNCTION(plant)
  mov $1, %eax
  mov %edi, %edi
  lea .Ltable(%rip), %rcx
  movzwl (%rcx,%rdi,2), %ecx
  lea .Lbase(%rip), %rdx
.Lbase:
  add %rcx, %rdx
  jmp *%rdx
END(plant)
.balign 256
.skip 256, 0xcc
FUNCTION(handlers)
  xor %eax, %eax
  ret
.Lstraight:
  SITE(sum_elsewhere)
  add $2, %eax
.Linside:
  add $4, %eax
  ret
END(handlers)
.section .rodata
.byte 1
.Ltable: .short .Lstraight - .Lbase, .Linside - .Lbase
