/*
 * Small functions with a probe each, and beside the probe what is known of the bytes below rsp there. They are never run.
 *
 * A probe's name is the case; the word in the comment behind it is the expected answer.
 */
        .macro  probe name, arguments=""
990:    nop
        .pushsection .note.stapsdt, "", "note"
        .balign 4
        .4byte  992f-991f, 994f-993f, 3
991:    .asciz  "stapsdt"
992:    .balign 4
993:    .8byte  990b, _.stapsdt.base, 0
        .asciz  "stack"
        .asciz  "\name"
        .asciz  "\arguments"
994:    .balign 4
        .popsection
        .endm

        .section .stapsdt.base, "aG", "progbits", .stapsdt.base, comdat
        .weak   _.stapsdt.base
        .hidden _.stapsdt.base
_.stapsdt.base: .space 1
        .size   _.stapsdt.base, 1

        .macro  function name
        .balign 16
        .type   \name, @function
\name:
        .cfi_startproc
        .set    current_start, .
        .endm

        .macro  end name
        .cfi_endproc
        .size   \name, . - \name
        .balign 16, 0xcc
        .endm

        .text

/* Plain locals through rsp. */
        function plain
        mov     %rdi, -8(%rsp)
        probe   plain_local             # live
        mov     -8(%rsp), %rax
        ret
        end     plain

        function last_byte
        movb    $1, -128(%rsp)
        probe   lowest_byte             # live
        movzbl  -128(%rsp), %eax
        ret
        end     last_byte

        function beyond
        movb    $1, -129(%rsp)
        probe   beyond_the_red_zone     # unused
        movzbl  -129(%rsp), %eax
        ret
        end     beyond

        function above
        probe   reads_its_arguments     # unused
        mov     8(%rsp), %rax
        add     (%rsp), %rax
        ret
        end     above

        function straddles
        probe   read_that_begins_below  # live
        mov     -4(%rsp), %rax
        ret
        end     straddles

        function rewritten
        mov     %rdi, -8(%rsp)
        mov     -8(%rsp), %rax
        probe   written_before_read     # unused
        mov     %rsi, -8(%rsp)
        add     -8(%rsp), %rax
        ret
        end     rewritten

        function half
        mov     %rdi, -8(%rsp)
        probe   half_written            # live
        mov     %esi, -8(%rsp)
        mov     -8(%rsp), %rax
        ret
        end     half

        function done
        mov     %rdi, -8(%rsp)
        mov     -8(%rsp), %rax
        probe   read_before_the_probe_only # unused
        ret
        end     done

/* Branches: one way is enough. */
        function either
        mov     %rdi, -8(%rsp)
        probe   live_on_one_way         # live
        test    %rdi, %rdi
        je      1f
        xor     %eax, %eax
        ret
1:      mov     -8(%rsp), %rax
        ret
        end     either

        function both_write
        probe   written_on_both_ways    # unused
        test    %rdi, %rdi
        je      1f
        mov     %rdi, -8(%rsp)
        jmp     2f
1:      mov     %rsi, -8(%rsp)
2:      mov     -8(%rsp), %rax
        ret
        end     both_write

        function one_writes
        probe   written_on_one_way      # live
        test    %rdi, %rdi
        je      1f
        mov     %rdi, -8(%rsp)
1:      mov     -8(%rsp), %rax
        ret
        end     one_writes

        function around
        movq    $0, -8(%rsp)
1:      add     -8(%rsp), %rdi
        probe   read_in_the_next_round  # live
        dec     %rsi
        jne     1b
        mov     %rdi, %rax
        ret
        end     around

        function conditional_write
        mov     %rdi, -8(%rsp)
        probe   cmpxchg_may_not_write   # live
        lock cmpxchg %rsi, -8(%rsp)
        ret
        end     conditional_write

/* rbp without sub rsp, as leaf functions have it at -O0. */
        function framed
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        mov     %edi, -20(%rbp)
        probe   local_through_rbp       # live
        mov     -20(%rbp), %eax
        pop     %rbp
        .cfi_def_cfa 7, 8
        ret
        end     framed

        function framed_nothing
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        mov     %edi, -20(%rbp)
        mov     -20(%rbp), %eax
        probe   dead_local_through_rbp  # unused
        pop     %rbp
        .cfi_def_cfa 7, 8
        ret
        end     framed_nothing

        function framed_sub
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        sub     $32, %rsp
        mov     %edi, -20(%rbp)
        probe   local_above_rsp         # unused
        mov     -20(%rbp), %eax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     framed_sub

        function framed_sub_short
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        sub     $16, %rsp
        mov     %edi, -20(%rbp)
        probe   sub_that_is_too_small   # live
        mov     -20(%rbp), %eax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     framed_sub_short

        function with_enter
        enter   $32, $0
        .cfi_def_cfa 6, 16
        mov     %edi, -36(%rbp)
        probe   enter_too_small         # live
        mov     -36(%rbp), %eax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     with_enter

        function with_enter_enough
        enter   $48, $0
        .cfi_def_cfa 6, 16
        mov     %edi, -36(%rbp)
        probe   enter_large_enough      # unused
        mov     -36(%rbp), %eax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     with_enter_enough

/* rsp that moves, and copies of it. */
        function sub_and_red_zone
        sub     $0xd0, %rsp
        .cfi_def_cfa_offset 0xd8
        mov     %rdi, -0x78(%rsp)
        probe   sub_rsp_proves_nothing  # live
        mov     -0x78(%rsp), %rax
        add     $0xd0, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     sub_and_red_zone

        function lowered_behind
        mov     %rdi, -8(%rsp)
        probe   rsp_moves_behind        # live
        sub     $16, %rsp
        .cfi_def_cfa_offset 24
        mov     8(%rsp), %rax
        add     $16, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     lowered_behind

        function pushed_over
        mov     %rdi, -8(%rsp)
        probe   push_writes             # unused
        push    %rsi
        .cfi_def_cfa_offset 16
        mov     (%rsp), %rax
        pop     %rsi
        .cfi_def_cfa_offset 8
        ret
        end     pushed_over

        function popped
        push    %rdi
        .cfi_def_cfa_offset 16
        pop     %rdi
        .cfi_def_cfa_offset 8
        probe   pop_leaves_it_below     # live
        mov     -8(%rsp), %rax
        ret
        end     popped

        function copied
        mov     %rsp, %rcx
        mov     %rdi, -16(%rcx)
        lea     -32(%rcx), %rdx
        probe   copy_of_rsp             # live
        mov     16(%rdx), %rax
        ret
        end     copied

        function copied_up
        sub     $64, %rsp
        .cfi_def_cfa_offset 72
        lea     32(%rsp), %rcx
        probe   copy_that_points_up     # unused
        mov     -32(%rcx), %rax
        add     $64, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     copied_up

        function lea_rsp
        lea     -64(%rsp), %rsp
        .cfi_def_cfa_offset 72
        mov     %rdi, (%rsp)
        probe   lea_moves_rsp           # unused
        mov     (%rsp), %rax
        lea     64(%rsp), %rsp
        .cfi_def_cfa_offset 8
        ret
        end     lea_rsp

        function swapped
        mov     %rdi, -8(%rsp)
        lea     -8(%rsp), %rcx
        xchg    %rcx, %rdx
        probe   exchanged_pointer       # live
        mov     (%rdx), %rax
        ret
        end     swapped

/* Aligned frames and alloca. */
        function aligned
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        and     $-32, %rsp
        mov     %rdi, -32(%rsp)
        probe   below_an_aligned_rsp    # live
        mov     -32(%rsp), %rax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     aligned

        function aligned_frame
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        and     $-32, %rsp
        sub     $64, %rsp
        mov     %rdi, 32(%rsp)
        probe   inside_an_aligned_frame # unused
        mov     32(%rsp), %rax
        add     16(%rbp), %rax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     aligned_frame

        function aligned_rbp
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        mov     %rdi, -40(%rbp)
        and     $-32, %rsp
        probe   rbp_below_aligned_rsp   # live
        mov     -40(%rbp), %rax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     aligned_rbp

        function allocates
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        sub     %rdi, %rsp
        mov     %rdi, (%rsp)
        probe   alloca_in_a_leaf        # unused
        mov     (%rsp), %rax
        add     16(%rbp), %rax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     allocates

        function allocates_below
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        sub     %rdi, %rsp
        mov     %rdi, -8(%rsp)
        probe   below_an_alloca         # live
        mov     -8(%rsp), %rax
        leave
        .cfi_def_cfa 7, 8
        ret
        end     allocates_below

        function allocates_and_calls
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        push    %rbx
        sub     $8, %rsp
        .cfi_offset 3, -24
        mov     %rsp, %rcx
        sub     %rdi, %rcx
        mov     %rcx, %rsp
        mov     %rcx, %rdi
        call    elsewhere
        probe   alloca_and_calls        # unused
        mov     -8(%rbp), %rbx
        leave
        .cfi_def_cfa 7, 8
        ret
        end     allocates_and_calls

        function probed_stack
        lea     -0x4000(%rsp), %r11
        .cfi_def_cfa 11, 0x4008
1:      sub     $0x1000, %rsp
        orq     $0, (%rsp)
        cmp     %r11, %rsp
        jne     1b
        .cfi_def_cfa_register 7
        sub     $0x20, %rsp
        .cfi_def_cfa_offset 0x4028
        mov     %rdi, 8(%rsp)
        probe   behind_stack_probes     # unused
        mov     8(%rsp), %rax
        add     $0x4020, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     probed_stack

        function probed_stack_below
        lea     -0x4000(%rsp), %r11
        .cfi_def_cfa 11, 0x4008
1:      sub     $0x1000, %rsp
        orq     $0, (%rsp)
        cmp     %r11, %rsp
        jne     1b
        .cfi_def_cfa_register 7
        mov     %rdi, -8(%rsp)
        probe   below_stack_probes      # live
        mov     -8(%rsp), %rax
        add     $0x4000, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     probed_stack_below

/* Not exact: indices, walking pointers, escaping addresses. */
        function indexed
        mov     %rdi, -0x48(%rsp,%rsi,8)
        probe   indexed_below           # live
        mov     -0x48(%rsp,%rdx,8), %rax
        ret
        end     indexed

        function indexed_above
        sub     $0x90, %rsp
        .cfi_def_cfa_offset 0x98
        probe   indexed_from_rsp_in_a_leaf # unknown
        mov     (%rsp,%rdx,8), %rax
        add     $0x90, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     indexed_above

        function walks
        lea     -64(%rsp), %rax
        mov     %rsp, %rcx
1:      mov     %rdi, (%rax)
        add     $8, %rax
        cmp     %rcx, %rax
        jne     1b
        lea     -64(%rsp), %rax
        probe   pointer_that_walks      # live
        xor     %edx, %edx
2:      add     (%rax), %rdx
        add     $8, %rax
        cmp     %rcx, %rax
        jne     2b
        mov     %rdx, %rax
        ret
        end     walks

        function walks_down
        mov     %rsp, %rax
        mov     $8, %ecx
        probe   walks_down_from_rsp     # unknown
1:      sub     %rsi, %rax
        add     (%rax), %rdx
        dec     %ecx
        jne     1b
        ret
        end     walks_down

        function escapes
        mov     %rdi, -64(%rsp)
        lea     -64(%rsp), %rax
        mov     %rax, -8(%rsp)
        probe   stored_address          # live
        mov     -8(%rsp), %rax
        mov     (%rax), %rax
        ret
        end     escapes

        function escapes_elsewhere
        mov     %rdi, -64(%rsp)
        lea     -64(%rsp), %rax
        mov     %rax, (%rsi)
        probe   address_given_away      # live
        mov     (%rsi), %rax
        mov     (%rax), %rax
        ret
        end     escapes_elsewhere

        function in_vector
        mov     %rdi, -64(%rsp)
        lea     -64(%rsp), %rax
        movq    %rax, %xmm0
        probe   address_in_a_vector     # live
        movq    %xmm0, %rcx
        mov     (%rcx), %rax
        ret
        end     in_vector

        function pointer_argument
        mov     (%rdi), %rax
        probe   pointers_of_the_caller  # unused
        add     (%rsi,%rdx,8), %rax
        mov     %rax, (%rdi)
        ret
        end     pointer_argument

        function bits
        mov     %rdi, -8(%rsp)
        probe   bit_offset              # live
        bt      %rsi, -8(%rsp)
        setc    %al
        ret
        end     bits

        function selected
        lea     -16(%rsp), %rax
        lea     -32(%rsp), %rcx
        test    %rdi, %rdi
        cmove   %rcx, %rax
        probe   one_of_two_locals       # live
        mov     (%rax), %rax
        ret
        end     selected

/* Wide and implicit accesses. */
        function vectors
        movups  %xmm0, -24(%rsp)
        probe   sse_spill               # live
        movups  -24(%rsp), %xmm0
        ret
        end     vectors

        function wide_vectors
        vmovups %ymm0, -160(%rsp)
        probe   avx_spill_half_inside   # live
        vmovups -144(%rsp), %ymm0
        ret
        end     wide_vectors

        function vectors_overwritten
        probe   sse_store_first         # unused
        movups  %xmm0, -24(%rsp)
        mov     -16(%rsp), %rax
        ret
        end     vectors_overwritten

        function masked
        probe   masked_store            # live
        vmovups %zmm0, -64(%rsp){%k1}
        mov     -16(%rsp), %rax
        ret
        end     masked

        function strings
        mov     %rdi, -8(%rsp)
        lea     -8(%rsp), %rsi
        probe   string_instruction      # live
        lodsb
        ret
        end     strings

        function repeated
        lea     -64(%rsp), %rdi
        mov     $8, %ecx
        probe   rep_stos_and_read       # live
        rep stosq
        mov     -64(%rsp), %rax
        ret
        end     repeated

        function repeated_read
        lea     -64(%rsp), %rsi
        mov     $8, %ecx
        probe   rep_movs_from_below     # live
        rep movsq
        ret
        end     repeated_read

        function saves_state
        probe   xrstor_from_below       # live
        xrstor  -128(%rsp)
        ret
        end     saves_state

        function x87
        fstpl   -8(%rsp)
        probe   x87_spill               # live
        fldl    -8(%rsp)
        ret
        end     x87

        function system_call
        mov     %rdi, -16(%rsp)
        lea     -16(%rsp), %rsi
        probe   kernel_reads            # live
        syscall
        ret
        end     system_call

        function system_call_plain
        probe   kernel_reads_nothing    # unused
        mov     $39, %eax
        syscall
        ret
        end     system_call_plain

        function fence
        probe   a_fence_is_no_read      # unused
        lock orl $0, -64(%rsp)
        ret
        end     fence

/* Calls. */
        function calls
        sub     $24, %rsp
        .cfi_def_cfa_offset 32
        lea     (%rsp,%rdi,8), %rdi
        probe   before_a_call           # unused
        call    elsewhere
        mov     (%rsp,%rax,8), %rax
        add     $24, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     calls

        function call_overwrites
        sub     $8, %rsp
        .cfi_def_cfa_offset 16
        mov     %rdi, -8(%rsp)
        mov     -8(%rsp), %rdi
        probe   overwritten_by_a_call   # unused
        call    elsewhere
        mov     -8(%rsp), %rax
        add     $8, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     call_overwrites

        function call_and_below
        sub     $8, %rsp
        .cfi_def_cfa_offset 16
        call    elsewhere
        mov     %rax, -8(%rsp)
        probe   call_does_not_excuse    # live
        add     -8(%rsp), %rax
        add     $8, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     call_and_below

        function profiled
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        call    mcount
        mov     %rsp, %rax
        probe   profiled_leaf           # live
        mov     -8(%rax,%rdi,8), %rax
        pop     %rbp
        .cfi_def_cfa 7, 8
        ret
        end     profiled

/* Other parts, tail calls, indirect jumps. */
        function tail
        mov     %rdi, -8(%rsp)
        mov     -8(%rsp), %rdi
        probe   before_a_tail_call      # unused
        jmp     calls
        end     tail

        function tail_linkage
        mov     %rdi, -8(%rsp)
        mov     -8(%rsp), %rdi
        probe   tail_call_to_elsewhere  # unused
        jmp     elsewhere@PLT
        end     tail_linkage

        function hot
        mov     %rdi, -8(%rsp)
        probe   read_in_the_cold_part   # live
        test    %rdi, %rdi
        jne     hot.cold
        ret
        end     hot
        .section .text.unlikely, "ax"
        function hot.cold
        mov     -8(%rsp), %rax
        ret
        end     hot.cold
        .text

        function hot2
        mov     %rdi, -8(%rsp)
        test    %rdi, %rdi
        jne     hot2.cold
1:      mov     -8(%rsp), %rax
        ret
        .set    hot2_back, 1b
        end     hot2
        .section .text.unlikely, "ax"
        function hot2.cold
        probe   read_back_in_the_hot_part # live
        jmp     hot2_back
        end     hot2.cold
        .text

        function hot3
        mov     %rdi, -64(%rsp)
        lea     -64(%rsp), %rcx
        test    %rdi, %rdi
        jne     hot3.cold
        ret
        end     hot3
        .section .text.unlikely, "ax"
        function hot3.cold
        probe   pointer_from_the_hot_part # live
        mov     (%rcx), %rax
        ret
        end     hot3.cold
        .text

        function hot4
        push    %rbx
        .cfi_def_cfa_offset 16
        .cfi_offset 3, -16
        test    %rdi, %rdi
        jne     hot4.cold
        mov     -16(%rsp), %rax
        pop     %rbx
        .cfi_def_cfa_offset 8
        ret
        end     hot4
        .section .text.unlikely, "ax"
        .balign 16
        .type   hot4.cold, @function
hot4.cold:
        .cfi_startproc
        .cfi_def_cfa_offset 16
        .cfi_offset 3, -16
        probe   cold_part_with_a_frame  # live
        mov     -16(%rsp), %rax
        pop     %rbx
        .cfi_def_cfa_offset 8
        ret
        end     hot4.cold
        .text

        function switch
        mov     %rdi, -8(%rsp)
        lea     table(%rip), %rcx
        movslq  (%rcx,%rsi,4), %rax
        add     %rcx, %rax
        probe   before_a_switch         # live
        jmp     *%rax
1:      mov     -8(%rsp), %rax
        ret
2:      xor     %eax, %eax
        ret
        .set    case1, 1b
        .set    case2, 2b
        end     switch

        function switch_inside
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        mov     %rdi, -8(%rbp)
        lea     table(%rip), %rcx
        movslq  (%rcx,%rsi,4), %rax
        add     %rcx, %rax
        jmp     *%rax
1:      probe   in_a_case               # live
        mov     -8(%rbp), %rax
        pop     %rbp
        .cfi_remember_state
        .cfi_def_cfa 7, 8
        ret
2:      .cfi_restore_state
        probe   in_another_case         # unused
        xor     %eax, %eax
        pop     %rbp
        .cfi_def_cfa 7, 8
        ret
        .set    case3, 1b
        .set    case4, 2b
        end     switch_inside

        function carried
        test    %rsi, %rsi
        jne     2f
        mov     %rdi, %rcx
        jmp     1f
2:      mov     %rdi, -64(%rsp)
        lea     -64(%rsp), %rcx
        jmp     *%rdx
1:      probe   pointer_carried_by_a_jump # live
        mov     (%rcx), %rax
        ret
        end     carried

        function short_hot
        mov     %rdi, -64(%rsp)
        lea     -64(%rsp), %rcx
        test    %rdi, %rdi
        jne     short_cold
        ret
        end     short_hot
        function short_cold
        probe   pointer_from_a_short_jump # live
        mov     (%rcx), %rax
        ret
        end     short_cold

        function jumps_away
        probe   through_a_pointer       # unused
        jmp     *(%rdi)
        end     jumps_away

/* The unwind table contradicts the instructions. */
        function lies
        sub     $32, %rsp
        .cfi_def_cfa_offset 24
        mov     %rdi, 8(%rsp)
        probe   unwind_table_disagrees  # unknown
        mov     8(%rsp), %rax
        add     $32, %rsp
        .cfi_def_cfa_offset 8
        ret
        end     lies

/* What the note alone reads. */
        function for_the_note
        mov     %rdi, -8(%rsp)
        probe   argument_below_rsp, "8@-8(%rsp)" # live
        ret
        end     for_the_note

        function argument_indexed
        probe   argument_indexed, "4@-32(%rsp,%rax,4)" # live
        ret
        end     argument_indexed

        function argument_at_rsp
        probe   argument_above_rsp, "8@(%rsp) -4@12(%rsp) 8@%rdi 4@$5" # unused
        ret
        end     argument_at_rsp

        function argument_rbp
        push    %rbp
        .cfi_def_cfa_offset 16
        .cfi_offset 6, -16
        mov     %rsp, %rbp
        .cfi_def_cfa_register 6
        mov     %edi, -20(%rbp)
        probe   argument_through_rbp, "-4@-20(%rbp)" # live
        pop     %rbp
        .cfi_def_cfa 7, 8
        ret
        end     argument_rbp

        function argument_pointer
        movl    $0x64636261, -16(%rsp)
        lea     -16(%rsp), %rax
        probe   argument_points_below, "8@%rax" # live
        ret
        end     argument_pointer

        function argument_copy
        mov     %rdi, -16(%rsp)
        lea     -32(%rsp), %rax
        probe   argument_through_a_copy, "8@16(%rax)" # live
        ret
        end     argument_copy

        function argument_other
        probe   argument_through_a_pointer, "8@16(%rdi) 4@(%rdi,%rsi,4)" # unused
        ret
        end     argument_other

        function argument_strange
        probe   argument_not_understood, "8@whatever(%foo)" # unknown
        ret
        end     argument_strange

        .section .rodata
        .balign 4
table:  .long   case1 - table, case2 - table, case3 - table, case4 - table
        .section .note.GNU-stack, "", @progbits
