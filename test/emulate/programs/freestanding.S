/* No C library: prints the sum of the bytes of its own stack's alignment and the 20th Fibonacci number, and exits with 9. */
        .globl  _start
        .text
_start: mov     %rsp, %rbx
        and     $15, %ebx
        xor     %eax, %eax
        mov     $1, %edx
        mov     $20, %ecx
1:      xadd    %rax, %rdx
        loop    1b
        add     %rbx, %rax
        lea     end(%rip), %rsi
        mov     $10, %ecx
2:      xor     %edx, %edx
        div     %rcx
        add     $'0', %dl
        dec     %rsi
        mov     %dl, (%rsi)
        test    %rax, %rax
        jnz     2b
        mov     $1, %edi
        lea     end+1(%rip), %rdx
        sub     %rsi, %rdx
        mov     $1, %eax
        syscall
        cmp     %rdx, %rax
        jne     3f
        mov     $9, %edi
3:      mov     $60, %eax
        syscall
        .data
        .fill   32
end:    .ascii  "\n"
        .section .note.GNU-stack,"",@progbits
