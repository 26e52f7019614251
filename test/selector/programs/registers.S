# What a program gets: at its entry it writes all general registers, the flags apart, and the first word on the stack.
        .globl  _start
        .text
_start:
        mov     %rsp, saved+8*16(%rip)
        lea     saved+8*16(%rip), %rsp
        push    %r15
        push    %r14
        push    %r13
        push    %r12
        push    %r11
        push    %r10
        push    %r9
        push    %r8
        push    %rdi
        push    %rsi
        push    %rbp
        push    %rsp
        push    %rbx
        push    %rdx
        push    %rcx
        push    %rax
        mov     saved+8*16(%rip), %rsp
        mov     (%rsp), %rax
        mov     %rax, saved+8*17(%rip)
        mov     selector_distance(%rip), %rcx
        movabs  $0x5e1ec7055e1ec70f, %rax
        mov     $-1, %rdx
        cmp     %rax, %rcx
        je      1f
        lea     selector_distance(%rip), %rax
        movsbq  (%rax,%rcx), %rdx
1:      mov     %rdx, saved+8*18(%rip)
        mov     $1, %eax
        mov     $1, %edi
        lea     saved(%rip), %rsi
        mov     $8*19, %edx
        syscall
        mov     $60, %eax
        xor     %edi, %edi
        syscall
        .data
        .balign 8
selector_distance:
        .quad   0x5e1ec7055e1ec70f
        .bss
        .balign 16
saved:  .skip   8*19
        .section .note.GNU-stack,"",@progbits
