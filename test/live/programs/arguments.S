/*
 * One function for each form that a probe's argument can have. Every function has its round's number in rdi, gives values
 * that depend on it to the places that its note names, and returns a sum of what it kept.
 *
 * Those that keep something below rsp, or whose note reads there, get a guard; those whose nop stands before a call
 * that a branch leads to become a call-through, with rsp 8 lower at the probe.
 */
        .text

        .macro  PROBE name, arguments
990:    nop
        NOTE    \name, "\arguments"
        .endm

        /* One more note may follow, of the same nop. */
        .macro  NOTE name, arguments
        .pushsection .note.stapsdt, "", "note"
        .balign 4
        .4byte  992f-991f, 994f-993f, 3
991:    .asciz  "stapsdt"
992:    .balign 4
993:    .8byte  990b, _.stapsdt.base, 0
        .asciz  "args"
        .asciz  "\name"
        .asciz  "\arguments"
994:    .balign 4
        .popsection
        .endm

        .macro  FUNCTION name
        .p2align 4
        .globl  \name
        .type   \name, @function
\name:
        .cfi_startproc
        .endm

        .macro  END name
        .cfi_endproc
        .size   \name, . - \name
        .endm

        FUNCTION constants
        lea     1(%rdi), %rax
        PROBE   constants, "-4@$-5 8@$1234605616436508552 1@$255 -2@$-1 -8@$-77 4@$0"
        add     $7, %rax
        shl     $3, %rax
        ret
        END     constants

        .macro  SAVE register
        push    \register
        .cfi_adjust_cfa_offset 8
        .endm
        .macro  RESTORE register
        pop     \register
        .cfi_adjust_cfa_offset -8
        .endm

        FUNCTION wide
        SAVE    %rbx
        SAVE    %rbp
        SAVE    %r12
        lea     0x1111(%rdi), %rax
        lea     0x2222(%rdi), %rbx
        lea     0x3333(%rdi), %rcx
        lea     0x4444(%rdi), %rdx
        lea     0x5555(%rdi), %rsi
        lea     0x6666(%rdi), %rbp
        lea     0x7777(%rdi), %r8
        lea     0x8888(%rdi), %r9
        lea     0x9999(%rdi), %r10
        lea     0xaaaa(%rdi), %r11
        lea     0xbbbb(%rdi), %r12
        PROBE   wide, "8@%rax 8@%rbx 8@%rcx 8@%rdx 8@%rsi 8@%rdi 8@%rbp 8@%r8 8@%r9 8@%r10 8@%r11 -8@%r12"
        add     %rbx, %rax
        add     %rcx, %rax
        add     %r11, %rax
        RESTORE     %r12
        RESTORE     %rbp
        RESTORE     %rbx
        ret
        END     wide

        FUNCTION narrow
        imul    $0x01234567, %rdi, %rax
        not     %rax
        imul    $0x11111f11, %rdi, %rcx
        not     %rcx
        lea     -3(%rdi), %rdx
        lea     -4(%rdi), %rsi
        lea     -5(%rdi), %r8
        lea     -6(%rdi), %r9
        lea     -7(%rdi), %r10
        lea     -8(%rdi), %r11
        PROBE   narrow, "4@%eax -4@%ecx 2@%dx -2@%si 1@%dil -1@%al 1@%ah -1@%ch 4@%r8d -4@%r9d 2@%r10w 1@%r11b"
        add     %rcx, %rax
        add     %r11, %rax
        ret
        END     narrow

        FUNCTION kept
        SAVE    %r13
        SAVE    %r14
        SAVE    %r15
        lea     13(%rdi), %r13
        lea     14(%rdi), %r14
        lea     15(%rdi), %r15
        PROBE   kept, "8@%r13 8@%r14 8@%r15"
        lea     (%r13,%r14), %rax
        add     %r15, %rax
        RESTORE     %r15
        RESTORE     %r14
        RESTORE     %r13
        ret
        END     kept

        /* The test compares the two arguments with each other: where the stack is differs from run to run. */
        FUNCTION pointer
        mov     %rsp, stack_pointer(%rip)
        PROBE   pointer, "8@%rsp 8@stack_pointer(%rip)"
        lea     3(%rdi), %rax
        imul    $5, %rax, %rax
        ret
        END     pointer

        FUNCTION above
        sub     $40, %rsp
        .cfi_adjust_cfa_offset 40
        lea     100(%rdi), %rax
        mov     %rax, (%rsp)
        neg     %rax
        mov     %rax, 16(%rsp)
        mov     %rdi, 24(%rsp)
        mov     $1, %eax
        PROBE   above, "8@(%rsp) 8@0(%rsp) -4@16(%rsp) -8@16(%rsp) 2@16(%rsp) 8@16(%rsp,%rax,8) 1@15(%rsp,%rax)"
        mov     (%rsp), %rax
        add     16(%rsp), %rax
        add     24(%rsp), %rax
        add     $40, %rsp
        .cfi_adjust_cfa_offset -40
        ret
        END     above

        FUNCTION frame
        SAVE    %rbp
        mov     %rsp, %rbp
        sub     $128, %rsp
        lea     table(%rip), %rax
        mov     %rdi, -8(%rbp)
        imul    $-1000, %edi, %ecx
        mov     %ecx, -20(%rbp)
        lea     8(%rdi), %rcx
        mov     %rcx, -88(%rbp)
        mov     $1, %ecx
        PROBE   frame, "8@-8(%rbp) -4@-20(%rbp) 1@-1(%rbp) 8@-96(%rbp,%rcx,8) 4@8(%rax) -2@(%rax,%rcx,2) 8@table+16(%rip)"
        mov     -8(%rbp), %rax
        add     -88(%rbp), %rax
        leave
        .cfi_adjust_cfa_offset -8
        ret
        END     frame

        /* What -O0 makes of a leaf function: locals below rsp, addressed through rbp. */
        FUNCTION unoptimized
        SAVE    %rbp
        mov     %rsp, %rbp
        lea     5(%rdi), %rax
        mov     %rax, -8(%rbp)
        imul    $-7, %edi, %ecx
        mov     %ecx, -20(%rbp)
        mov     %di, -26(%rbp)
        PROBE   unoptimized, "-8@-8(%rbp) -4@-20(%rbp) 2@-26(%rbp) 8@8(%rbp)"
        mov     -8(%rbp), %rax
        movslq  -20(%rbp), %rcx
        add     %rcx, %rax
        RESTORE     %rbp
        ret
        END     unoptimized

        FUNCTION below
        lea     21(%rdi), %rax
        mov     %rax, -8(%rsp)
        imul    $-9, %edi, %ecx
        mov     %ecx, -20(%rsp)
        movb    $0x5a, -24(%rsp)
        PROBE   below, "8@-8(%rsp) -4@-20(%rsp) 1@-24(%rsp) 8@(%rsp)"
        mov     -8(%rsp), %rax
        movslq  -20(%rsp), %rcx
        add     %rcx, %rax
        ret
        END     below

        /* The program itself never reads what it writes there. */
        FUNCTION for_the_note
        lea     31(%rdi), %rax
        mov     %rax, -8(%rsp)
        PROBE   for_the_note, "-8@-8(%rsp) 8@%rdi"
        lea     2(%rax), %rax
        shl     $2, %rax
        ret
        END     for_the_note

        FUNCTION indexed
        mov     %rdi, %rdx
        and     $3, %edx
        mov     %rdi, -72(%rsp)
        lea     1(%rdi), %rax
        mov     %rax, -64(%rsp)
        lea     2(%rdi), %rax
        mov     %rax, -56(%rsp)
        lea     3(%rdi), %rax
        mov     %rax, -48(%rsp)
        PROBE   indexed, "8@-72(%rsp,%rdx,8) -4@-72(%rsp,%rdx,8) 1@-64(%rsp,%rdx) 8@%rdx"
        mov     -72(%rsp,%rdx,8), %rax
        add     -48(%rsp), %rax
        ret
        END     indexed

        /* Through a copy of rsp: rsp may change, the copy does not. */
        FUNCTION copied
        lea     -40(%rsp), %rcx
        lea     41(%rdi), %rax
        mov     %rax, (%rcx)
        mov     %rdi, 8(%rcx)
        PROBE   copied, "8@(%rcx) 8@8(%rcx) 8@-40(%rsp)"
        mov     (%rcx), %rax
        add     8(%rcx), %rax
        ret
        END     copied

        FUNCTION symbols
        mov     %edi, counter(%rip)
        mov     %rdi, %rax
        and     $3, %eax
        PROBE   symbols, "-4@counter(%rip) -4@40+statistics(%rip) 8@table(%rip) 4@table(,%rax,4)"
        add     counter(%rip), %eax
        ret
        END     symbols

        /* A bare number is a distance from the probe: the value stands right behind the function. */
        FUNCTION bare
        lea     9(%rdi), %rax
1:      PROBE   bare, "8@9(%rip) 8@%rax"
        add     $3, %rax
        shl     $1, %rax
        ret
        END     bare
        .org    1b + 9
        .8byte  0x1020304050607080

        FUNCTION floating
        cvtsi2sd %rdi, %xmm0
        cvtsi2ss %rdi, %xmm1
        movsd   %xmm0, -8(%rsp)
        movss   %xmm1, -16(%rsp)
        lea     -16(%rsp), %rax
        PROBE   floating, "8f@-8(%rsp) 4f@(%rax) 8f@%xmm0 4f@%xmm1"
        movsd   -8(%rsp), %xmm0
        cvtsd2si %xmm0, %rax
        addss   -16(%rsp), %xmm1
        cvtss2si %xmm1, %rcx
        add     %rcx, %rax
        ret
        END     floating

        /* A branch leads to the nop, and behind it is a call: neither may move. */
        FUNCTION before_call
        sub     $24, %rsp
        .cfi_adjust_cfa_offset 24
        lea     51(%rdi), %rax
        mov     %rax, (%rsp)
        mov     %rdi, 8(%rsp)
        mov     $1, %eax
        test    $1, %dil
        jne     1f
        lea     9(%rdi), %rdi
1:      PROBE   before_call, "8@(%rsp) -4@8(%rsp) 8@%rdi 8@(%rsp,%rax,8) 8@24(%rsp)"
        call    twice
        add     (%rsp), %rax
        add     $24, %rsp
        .cfi_adjust_cfa_offset -24
        ret
        END     before_call

        FUNCTION twice
        lea     (%rdi,%rdi), %rax
        ret
        END     twice

        .section .rodata
        .balign 8
        .globl  functions
functions:
        .irp    name, constants, wide, narrow, kept, pointer, above, frame, unoptimized, below, for_the_note, indexed, copied, symbols, bare, floating, before_call
        .8byte  \name
        .endr
        .8byte  0

        .data
        .balign 8
counter:
        .4byte  0
        .balign 8
stack_pointer:
        .8byte  0
statistics:
        .fill   10, 4, 0x01020304
        .4byte  -12345
        .type   statistics, @object
        .size   statistics, 44
        .balign 8
table:  .8byte  0x1122334455667788, 0x99aabbccddeeff00, -2, 77
        .globl  counter, stack_pointer, statistics, table
        .type   counter, @object
        .size   counter, 4
        .type   stack_pointer, @object
        .size   stack_pointer, 8
        .type   table, @object
        .size   table, 32

        .section .stapsdt.base, "aG", "progbits", .stapsdt.base, comdat
        .weak   _.stapsdt.base
        .hidden _.stapsdt.base
_.stapsdt.base:
        .space  1
        .section .note.GNU-stack, "", @progbits
