# Two probes: one that displace takes, and one between two endbr64, which stay where they are.
#include <sys/sdt.h>
        .text
        .globl  moves
        .type   moves, @function
moves:  .cfi_startproc
        push    %rbx
        .cfi_def_cfa_offset 16
        .cfi_offset %rbx, -16
        mov     %rdi, %rbx
nop_that_moves:
        STAP_PROBE(explain, moves)
        mov     %rbx, %rdi
        xor     %eax, %eax
        add     %rdi, %rax
        pop     %rbx
        .cfi_def_cfa_offset 8
        ret
        .cfi_endproc
        .size   moves, . - moves
        .globl  stays
        .type   stays, @function
stays:  .cfi_startproc
        endbr64
        STAP_PROBE(explain, stays)
        endbr64
        xor     %eax, %eax
        ret
        .cfi_endproc
        .size   stays, . - stays
        .section .note.GNU-stack, "", @progbits
