/*
 * A constant behind a jump, made of bytes that look like padding; it is read by an address that lies somewhere before it.
 */
#include "plant.h"
/* Away from code that no symbol names, where anything may be a branch. */
.balign 256
.skip 256, 0xcc
EXPECT(0xcccccccc, 0xcccccccc)
FUNCTION(plant)
.Lnear:
  lea .Lnear(%rip), %rdx
  mov .Lconstant-.Lnear(%rdx), %eax
  jmp 77f
77: STAP_PROBE(plant, data_like_padding)
  jmp .Lover
.Lconstant:
  .long 0xcccccccc
.Lover:
  ret
END(plant)
