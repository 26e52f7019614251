/*
 * A pointer in a variable, written by a relocation at load time, leads behind the site; a jump through it is nothing unusual,
 * and says nothing of where it leads.
 * links: pie
 */
#include "plant.h"
EXPECT(7, 5)
FUNCTION(plant)
  mov $1, %eax
  test %edi, %edi
  jne go
  SITE(relocated_variable)
  add $2, %eax
.Linside:
  add $4, %eax
  ret
END(plant)
.balign 256
FUNCTION(go)
  mov pointer(%rip), %rdx
  jmp *%rdx
END(go)
.data
.balign 8
.globl pointer
pointer: .quad .Linside
