/*
 * Probes to plant faults around, besides those of tactics.S: guarded ones for each tactic that can have a guard, semaphores,
 * arguments that depend on where the probe is and on rsp, and windows with all sorts of instructions.
 * Nothing calls the functions: both sides are compared, no program is run.
 */
.text
.section .stapsdt.base, "aG", "progbits", .stapsdt.base, comdat
.weak _.stapsdt.base
.hidden _.stapsdt.base
_.stapsdt.base: .space 1
.size _.stapsdt.base, 1
.text

.macro probe name, args, semaphore=0
990: nop
.pushsection .note.stapsdt, "", "note"
  .balign 4
  .4byte 992f-991f, 994f-993f, 3
991: .asciz "stapsdt"
992: .balign 4
993: .8byte 990b, _.stapsdt.base, \semaphore
  .asciz "mutants"
  .asciz "\name"
  .asciz "\args"
994: .balign 4
.popsection
.endm

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

/* A leaf function that keeps a value below rsp. */
.macro leaf name
function \name
  push %rbp
  .cfi_def_cfa_offset 16
  .cfi_offset 6, -16
  mov %rsp, %rbp
  .cfi_def_cfa_register 6
  mov %rdi, -8(%rbp)
.endm
.macro endleaf name
  pop %rbp
  .cfi_def_cfa 7, 8
  ret
endfunction \name
.endm

/* A function that calls others. */
.macro caller name
function \name
  push %rbx
  .cfi_def_cfa_offset 16
  call external
.endm
.macro endcaller name
  call external
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
endfunction \name
.endm

/* Guarded: other nops give the room. */
leaf live_in_place
  probe live_in_place, "8@-8(%rsp) 8@%rsi"
.rept 4
  nopl 0x100(%rax,%rax)
.endr
  mov -8(%rbp), %rax
endleaf live_in_place

/* Guarded: the block moves up. */
leaf live_shift
  test %rsi, %rsi
  js 1f
  probe live_shift, "8@-8(%rsp) -4@%esi"
  mov -8(%rbp), %rax
  add $5, %rax
  jmp 2f
  .balign 32, 0x90
  .skip 32, 0x90
1:
  neg %rsi
2:
endleaf live_shift

/* Guarded, with instructions that go by memory and by flags. */
leaf live_displace
  probe live_displace, "8@-8(%rsp) 8@-120(%rsp,%rsi,8)", live_semaphore
  cmp -8(%rbp), %rsi
  je 1f
  add counter(%rip), %rsi
1:
  mov -8(%rbp), %rax
endleaf live_displace

leaf live_plain
  probe live_plain, "8@%rdi -4@$3"
  mov %rsi, %rcx
  add %rdx, %rcx
  mov -8(%rbp), %rax
endleaf live_plain

/* Guarded, and something leads to the instruction behind the probe. */
leaf live_straddle
  test %rdx, %rdx
  je 1f
  mov %rsi, 24(%rdx)
  probe live_straddle, "8@16(%rsp) 8@%rdx"
1:
  mov -8(%rbp), %rax
  add %rsi, %rax
endleaf live_straddle

/* Guarded, with two bytes of room and padding behind the function. */
leaf live_hop
  test %eax, %eax
  jne 2f
1:
  probe live_hop, "8@-8(%rsp)"
  jmp 3f
2:
  lea 0x70(%rdi), %rdx
  mov %rdx, %rax
  jmp 1b
3:
  add -8(%rbp), %rax
endleaf live_hop
.balign 32, 0x90
.skip 32, 0x90

/* Guarded, and a near branch leads behind the probe. */
leaf live_retarget
  test %rsi, %rsi
  .byte 0x0f, 0x88
  .long 1f - . - 4
  .skip 160, 0x90
  jmp 2f
2:
  probe live_retarget, "8@%rsi 8@-8(%rsp)"
1:
  mov -8(%rbp), %rax
  add %rdx, %rax
endleaf live_retarget

/* Arguments that are counted from the probe. */
caller counted
  probe counted, "4@32(%rip) 8@counter(%rip) 8@8(%rsp)"
  mov $5, %eax
  lea 8(%rdi,%rsi,2), %rdx
endcaller counted

caller semaphores
  probe semaphores, "8@%rdi", first_semaphore
  addl $7, 8(%rdi)
  add $9, %rsi
  probe others, "8@%rsi 2@%dx", second_semaphore
  imul $10, %rdi, %rax
  mov %rax, (%rsi)
endcaller semaphores

/* One name, two places. */
caller twice
  probe twice, "8@%rdi"
  shl $3, %rdi
  xor %esi, %edi
  call external
  probe twice, "8@%rax"
  mov %eax, %ebx
  inc %rbx
  neg %rbx
endcaller twice

caller branch_out
  probe branch_out, "8@%rdi"
  cmp $3, %edi
  jg 1f
  sub %rdi, %rsi
  call external
1:
  mov %rsi, %rbx
endcaller branch_out

caller branch_out_again
  probe branch_out_again, "8@%rdi"
  test %edi, %edi
  jne 1f
  or %rdi, 16(%rsi)
  call external
1:
  mov %rsi, %rbx
endcaller branch_out_again

/* A nop that is the program's own moves along. */
caller own_nop
  probe own_nop, "8@%rdi"
  mov %rdi, %rbx
  xchg %ax, %ax
endcaller own_nop

caller floats
  probe floats, "8f@%xmm0"
  addsd half(%rip), %xmm0
  mulsd %xmm1, %xmm0
endcaller floats

caller bytes
  probe bytes, "1@%dil"
  movzbl 3(%rdi), %eax
  add %al, 4(%rdi)
endcaller bytes

caller wide
  probe wide, "8@%rdi"
  movabs $0x1122334455667788, %rax
  xor %rax, %rdi
endcaller wide

/* What is called has a jump before it. */
caller through
  test %eax, %eax
  jne 1f
  call external
1:
  probe through, "8@24(%rsp) 8@%rbx"
  mov %rbx, %rdi
endcaller through

/* The block moves up, and the function ends later. */
function ends_later
  mov 8(%rdi), %rax
  probe ends_later, "8@%rax"
  ret
endfunction ends_later
.balign 32, 0x90

/* The same, where a symbol alone says so. */
.globl ends_later_by_symbol
.type ends_later_by_symbol, @function
ends_later_by_symbol:
  mov 8(%rdi), %rax
  probe ends_later_by_symbol, "8@%rax"
  ret
.size ends_later_by_symbol, . - ends_later_by_symbol
.balign 32, 0x90

/* Unguarded: other nops give the room. */
caller room
  probe room, "8@%rdi"
  nopl 0x100(%rax,%rax)
  nopl 0x100(%rax,%rax)
endcaller room

/* No probe, and a branch that could be led elsewhere. */
function untouched
  mov $1, %eax
  xchg %ax, %ax
  mov %rdi, %rdx
  test %edi, %edi
  .byte 0x0f, 0x84
  .long 1f - . - 4
  add $2, %eax
1:
  ret
endfunction untouched

function external
  xor %eax, %eax
  ret
endfunction external

.section .note.GNU-stack, "", @progbits
.data
.balign 8
counter: .quad 7
pointer: .quad counter
.section .rodata
.balign 8
half: .double 0.5
text: .asciz "read-only"
.section .probes, "aw"
.balign 2
live_semaphore: .2byte 0
first_semaphore: .2byte 0
second_semaphore: .2byte 0
