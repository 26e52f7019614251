/*
 * Where a load faults, a handler looks for a way out in a table of pairs of words, each relative to itself: the way out leads
 * behind the site.
 * with: fault-handler.c
 */
#include "plant.h"
EXPECT(7, 5)
FUNCTION(plant)
  sub $8, %rsp
  .cfi_adjust_cfa_offset 8
  call handle_faults
  add $8, %rsp
  .cfi_adjust_cfa_offset -8
  mov $1, %eax
  test %edi, %edi
  jne .Lfault
  SITE(fault_table)
  add $2, %eax
.Linside:
  add $4, %eax
  ret
.Lfault:
  mov 8, %ecx
  ud2
END(plant)
.section fault_table, "a"
.balign 4
.long .Lfault - ., .Linside - .
