/*
 * A program with universal probes, written by hand: each has two notes, of whose places a pass runs one. The selector's
 * first byte is the program's second argument; the first one says how often it passes each probe.
 *
 * Probes that look nearly like that follow, and are never run: their names say what is another.
 */
#include <sys/syscall.h>

        .macro  note name, place, arguments=""
        .pushsection .note.stapsdt, "", "note"
        .balign 4
        .4byte  992f-991f, 994f-993f, 3
991:    .asciz  "stapsdt"
992:    .balign 4
993:    .8byte  \place, _.stapsdt.base, 0
        .asciz  "twins"
        .asciz  "\name"
        .asciz  "\arguments"
994:    .balign 4
        .popsection
        .endm

        .macro  nop10
        .byte   0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0
        .endm

        .macro  nop5
        .byte   0x0f, 0x1f, 0x44, 0, 0
        .endm

/* Where no flag is needed; with a guard around the nop5 or without. */
        .macro  by_flags name, guard=0, expected=0, jump=jne, second, nops=0
        cmpb    $\expected, selector(%rip)
        \jump   982f
981:    nop
        nop10
        jmp     984f
982:
        .if     \guard
        lea     -0x80(%rsp), %rsp
        .endif
983:    nop5
        .if     \guard
        .byte   0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0
        .endif
        .rept   \nops
        nop
        .endr
984:
        note    \name, 981b, "8@%rbx"
        .ifb    \second
        note    \name, 983b, "8@%rbx"
        .else
        note    \second, 983b, "8@%rbx"
        .endif
        .endm

/* Where one is. */
        .macro  by_register name, raise=0x88
        .byte   0x48, 0x8d, 0xa4, 0x24, 0x78, 0xff, 0xff, 0xff
        mov     %rcx, (%rsp)
        movzbl  selector(%rip), %ecx
        jrcxz   982f
        mov     (%rsp), %rcx
983:    nop5
        jmp     984f
982:    mov     (%rsp), %rcx
981:    nop
        nop10
984:    .byte   0x48, 0x8d, 0xa4, 0x24, \raise, 0, 0, 0
        note    \name, 981b, "8@%rbx"
        note    \name, 983b, "8@%rbx"
        .endm

        .section .stapsdt.base, "aG", "progbits", .stapsdt.base, comdat
        .weak   _.stapsdt.base
        .hidden _.stapsdt.base
_.stapsdt.base: .space 1

        .bss
        .balign 8
        .type   selector, @object
        .size   selector, 8
selector: .space 8

        .text
/* int main(int argc, char **argv): argv[1] is the number of passes, argv[2][0] - '0' the selector. */
        .globl  main
        .type   main, @function
main:
        .cfi_startproc
        push    %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbx, 0
        push    %r12
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r12, 0
        push    %r13
        .cfi_adjust_cfa_offset 8
        mov     %rsi, %r12
        mov     16(%r12), %rax
        movzbl  (%rax), %eax
        sub     $'0', %eax
        mov     %al, selector(%rip)
        mov     8(%r12), %rdi
        call    atoi@plt
        movslq  %eax, %r13
        xor     %ebx, %ebx
1:      cmp     %r13, %rbx
        jae     2f
        by_flags plain
        by_flags guarded, guard=1
        stc
        by_register kept
        jnc     3f
        inc     %rbx
        jmp     1b
2:      xor     %eax, %eax
        jmp     4f
3:      mov     $1, %eax
4:      pop     %r13
        .cfi_adjust_cfa_offset -8
        pop     %r12
        .cfi_adjust_cfa_offset -8
        pop     %rbx
        .cfi_adjust_cfa_offset -8
        ret
        .cfi_endproc
        .size   main, . - main

        .type   nearly, @function
nearly:
        .cfi_startproc
        by_flags compared_with_one, expected=1
        by_flags other_sense, jump=je
        by_flags other_name, second=another_name
        by_flags nop_on_the_way, nops=1
        by_register raised_less, raise=0x80
        nop
        ret
        .cfi_endproc
        .size   nearly, . - nearly

        .section .note.GNU-stack, "", @progbits
