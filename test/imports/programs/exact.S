/* A static program of its own: fork, clone and another system call, after each of which registers and flags must be what
 * the kernel leaves: arguments kept, rcx the address behind the call, r11 the flags, the flags as they were. The result is in the
 * exit status: 0, or the number of the check that failed. A child's is asked for by wait4. With STUCK both sides of a call are
 * labels in data, so that nothing around it may move. */
        .globl  _start
        .text
        .type   _start, @function
_start:
        .cfi_startproc
        .cfi_undefined rip
        mov     %rsp, %rbp
        movl    $17, -8(%rsp)           /* the red zone */
        movq    $57, number(%rip)
        call    check
        movq    $56, number(%rip)
        call    check
        movq    $39, number(%rip)       /* getpid: not a fork */
        call    check
        xor     %edi, %edi
        mov     $60, %eax
        syscall
        .cfi_endproc
        .size   _start, . - _start

        .type   check, @function
check:
        .cfi_startproc
        movq    $0x1234567, -16(%rsp)   /* the red zone */
        mov     number(%rip), %eax
        mov     $17, %edi               /* SIGCHLD: flags of clone */
        xor     %esi, %esi
        mov     $3, %edx
        mov     $4, %r10d
        mov     $5, %r8d
        mov     $6, %r9d
        mov     $7, %ebx
        mov     $0x1234567887654321, %r12
        stc                             /* CF, ZF and DF are set */
        std
#ifdef STUCK
stuck:
        syscall
behind: nop
        mov     %rax, %r13
#else
        syscall
        mov     %rax, %r13
#endif
after:
        pushfq                          /* changes nothing above the red zone's 16 */
        pop     %r14
        cld
        lea     check(%rip), %r15       /* nothing makes the address behind the call itself */
        sub     %r15, %rcx
#ifdef STUCK
        cmp     $behind - check, %rcx
#else
        cmp     $after - 3 - check, %rcx
#endif
        mov     $1, %edi
        jne     fail
        cmp     %r14, %r11
        mov     $2, %edi
        jne     fail
        test    $1, %r14b
        mov     $3, %edi
        je      fail
        test    $0x400, %r14d
        mov     $4, %edi
        je      fail
        cmp     $0, %esi
        mov     $5, %edi
        jne     fail
        cmp     $3, %rdx
        mov     $6, %edi
        jne     fail
        cmp     $4, %r10
        mov     $7, %edi
        jne     fail
        cmp     $5, %r8
        mov     $8, %edi
        jne     fail
        cmp     $6, %r9
        mov     $9, %edi
        jne     fail
        cmp     $7, %rbx
        mov     $10, %edi
        jne     fail
        mov     $0x1234567887654321, %rax
        cmp     %rax, %r12
        mov     $11, %edi
        jne     fail
        cmpq    $0x1234567, -16(%rsp)
        mov     $12, %edi
        jne     fail
        xor     %edi, %edi
        test    %r13, %r13              /* a child has nothing else to do */
        je      fail
        mov     number(%rip), %eax
        cmp     $39, %eax
        je      1f
        sub     $24, %rsp
        .cfi_adjust_cfa_offset 24
        mov     %r13, %rdi
        mov     %rsp, %rsi
        xor     %edx, %edx
        xor     %r10d, %r10d
        mov     $61, %eax               /* wait4 */
        syscall
        mov     (%rsp), %eax
        add     $24, %rsp
        .cfi_adjust_cfa_offset -24
        movzbl  %ah, %edi
        test    %eax, %eax
        jne     fail
1:      ret
fail:
        mov     $60, %eax
        syscall
        hlt
        .cfi_endproc
        .size   check, . - check

        .data
#ifdef STUCK
        .quad   stuck, behind
#endif
        .comm   number, 8
        .section .note.GNU-stack, "", @progbits
