/*
 * Small functions with a probe each, and beside the probe whether a status flag is needed there. They are never run.
 *
 * A probe's name is the case; the word in the comment after it is the expected answer.
 */
        .macro  probe name
990:    nop
        .pushsection .note.stapsdt, "", "note"
        .balign 4
        .4byte  992f-991f, 994f-993f, 3
991:    .asciz  "stapsdt"
992:    .balign 4
993:    .8byte  990b, _.stapsdt.base, 0
        .asciz  "flags"
        .asciz  "\name"
        .asciz  ""
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
        .endm

        .macro  end name
        .cfi_endproc
        .size   \name, . - \name
        .balign 16, 0xcc
        .endm

        .text

/* A comparison, the probe, and the jump that goes by it. */
        function compare
        cmp     %rsi, %rdi
        probe   jump_after              # alive
        jb      1f
        xor     %eax, %eax
1:      ret
        end     compare

        function compare_move
        cmp     %rsi, %rdi
        mov     %rdi, %rax
        probe   move_after              # alive
        lea     8(%rsi), %rsi
        cmovb   %rsi, %rax
        ret
        end     compare_move

        function compare_set
        cmp     %rsi, %rdi
        probe   set_after               # alive
        seto    %al
        ret
        end     compare_set

/* Only one of the ways reads them. */
        function two_ways
        cmp     %rsi, %rdi
        probe   one_way_reads           # alive
        jrcxz   1f
        test    %edi, %edi
        ret
1:      setp    %al
        ret
        end     two_ways

        function both_ways
        probe   both_ways_write         # dead
        jrcxz   1f
        test    %edi, %edi
        jz      1f
        ret
1:      add     $1, %eax
        jc      1b
        ret
        end     both_ways

/* A number of many words is added up: the carry goes round. */
        function add_words
        xor     %eax, %eax
1:      mov     (%rdi,%rcx,8), %rax
        adc     %rax, (%rsi,%rcx,8)
        probe   carry_goes_round        # alive
        lea     1(%rcx), %rcx
        dec     %rdx
        jnz     1b
        ret
        end     add_words

/* Nobody adds with carry: what goes round is written by dec and cmp. */
        function count_down
1:      mov     (%rdi,%rcx,8), %rax
        probe   nothing_goes_round      # dead
        inc     %rcx
        cmp     %rdx, %rcx
        jne     1b
        ret
        end     count_down

/* inc and dec leave the carry as it was. */
        function increase
        stc
        probe   inc_keeps_carry         # alive
        inc     %rdi
        jc      1f
        xor     %eax, %eax
1:      ret
        end     increase

        function increase_zero
        probe   inc_writes_zero         # dead
        inc     %rdi
        jz      1f
        sub     %eax, %eax
1:      test    %eax, %eax
        ret
        end     increase_zero

/* A shift by cl writes nothing where cl is 0. */
        function shift_by_cl
        cmp     %rsi, %rdi
        probe   shift_may_keep          # alive
        shl     %cl, %rax
        je      1f
        xor     %eax, %eax
1:      ret
        end     shift_by_cl

        function shift_by_three
        cmp     %rsi, %rdi
        probe   shift_writes            # dead
        shl     $3, %rax
        je      1f
        xor     %eax, %eax
1:      test    %eax, %eax
        ret
        end     shift_by_three

        function rotate
        cmp     %rsi, %rdi
        probe   rotation_keeps_zero     # alive
        rol     $3, %rax
        je      1f
        xor     %eax, %eax
1:      ret
        end     rotate

        function bit_test
        cmp     %rsi, %rdi
        probe   bt_keeps_zero           # alive
        bt      $3, %rax
        je      1f
        xor     %eax, %eax
1:      ret
        end     bit_test

/* What is undefined may be the old one. */
        function scan_bits
        cmp     %rsi, %rdi
        probe   undefined_is_not_written # alive
        bsf     %rdi, %rax
        jc      1f
        xor     %eax, %eax
1:      ret
        end     scan_bits

/* Where rcx is 0 nothing is compared. */
        function compare_strings
        cmp     %eax, %eax
        probe   no_bytes_to_compare     # alive
        repe cmpsb
        sete    %al
        ret
        end     compare_strings

        function compare_a_byte
        probe   one_byte_is_compared    # dead
        cmpsb
        sete    %al
        ret
        end     compare_a_byte

/* All of them at once. */
        function push_flags
        probe   pushed                  # alive
        pushf
        pop     %rax
        ret
        end     push_flags

        function pop_flags
        push    %rdi
        probe   popped                  # dead
        popf
        setc    %al
        ret
        end     pop_flags

        function to_ah
        probe   loaded_into_ah          # alive
        lahf
        test    %eax, %eax
        ret
        end     to_ah

        function from_ah
        probe   overflow_stays          # alive
        sahf
        jo      1f
        test    %eax, %eax
1:      ret
        end     from_ah

        function complement
        probe   carry_is_turned         # alive
        cmc
        setc    %al
        ret
        end     complement

        function rotate_through
        probe   carry_goes_in           # alive
        rcl     $1, %rax
        test    %eax, %eax
        ret
        end     rotate_through

        function subtract_all
        probe   borrow_as_a_mask        # alive
        sbb     %eax, %eax
        ret
        end     subtract_all

        function loop_equal
        probe   loop_while_equal        # alive
1:      loope   1b
        test    %eax, %eax
        ret
        end     loop_equal

        function loop_plain
        probe   plain_loop              # dead
1:      loop    1b
        test    %eax, %eax
        ret
        end     loop_plain

/* The kernel puts them into r11, and gives them back. */
        function system_call
        probe   given_to_the_kernel     # alive
        syscall
        test    %eax, %eax
        ret
        end     system_call

        function breakpoint
        probe   seen_by_a_handler       # alive
        int3
        test    %eax, %eax
        ret
        end     breakpoint

        function end_of_all
        cmp     %rsi, %rdi
        probe   nothing_follows         # dead
        ud2
        end     end_of_all

/* A transaction that is broken off goes on with the flags that it began with. */
        function transaction
        cmp     %rsi, %rdi
        probe   broken_off              # alive
        xbegin  1f
        test    %eax, %eax
        xend
        ret
1:      setb    %al
        ret
        end     transaction

/* A function of another file, and one by a pointer: neither looks at them, neither keeps them. */
        function calls_other
        sub     $8, %rsp
        cmp     %rsi, %rdi
        probe   call_of_another_file    # dead
        call    elsewhere@plt
        lea     8(%rsp), %rsp
        setc    %al
        ret
        end     calls_other

        function jumps_to_other
        probe   jump_to_another_file    # dead
        jmp     elsewhere@plt
        end     jumps_to_other

        function calls_pointer
        sub     $8, %rsp
        cmp     %rsi, %rdi
        probe   call_by_a_pointer       # dead
        call    *(%rdi)
        lea     8(%rsp), %rsp
        ret
        end     calls_pointer

/* Flags go into a function of this file. */
        function takes_carry
        mov     %rdi, %rax
        adc     $0, %rax
        ret
        end     takes_carry

        function gives_carry
        sub     $8, %rsp
        cmp     %rsi, %rdi
        probe   callee_reads_carry      # alive
        call    takes_carry
        add     $8, %rsp
        ret
        end     gives_carry

        function jumps_with_carry
        cmp     %rsi, %rdi
        probe   jump_to_a_reader        # alive
        jmp     takes_carry
        end     jumps_with_carry

        function takes_nothing
        test    %rdi, %rdi
        sete    %al
        ret
        end     takes_nothing

        function gives_nothing
        sub     $8, %rsp
        probe   callee_writes           # dead
        call    takes_nothing
        lea     8(%rsp), %rsp
        setc    %al
        ret
        end     gives_nothing

/* A callee leaves them alone, and the caller goes on with them. */
        function leaves_alone
        mov     %rdi, %rax
        ret
        end     leaves_alone

        function over_a_call
        sub     $8, %rsp
        cmp     %rsi, %rdi
        probe   kept_by_a_callee        # alive
        call    leaves_alone
        lea     8(%rsp), %rsp
        jb      1f
        xor     %eax, %eax
1:      ret
        end     over_a_call

/* It calls itself on the way, and the flags come back from the innermost. */
        function calls_itself
        cmp     %rsi, %rdi
        probe   through_itself          # alive
1:      jrcxz   2f
        dec     %rcx
        call    calls_itself
        jb      2f
        xor     %eax, %eax
2:      ret
        end     calls_itself

/* A function that says what it found by the carry. */
        function returns_carry
        cmp     %rsi, %rdi
        probe   carry_is_the_answer     # alive
        mov     %rdi, %rax
        ret
        end     returns_carry

        function asks_for_carry
        sub     $8, %rsp
        call    returns_carry
        lea     8(%rsp), %rsp
        jc      1f
        xor     %eax, %eax
1:      ret
        end     asks_for_carry

/* The same by a jump at its end, and over two returns. */
        function jumps_at_its_end
        cmp     %rsi, %rdi
        probe   answer_of_a_jump        # alive
        jmp     leaves_alone
        end     jumps_at_its_end

        function passes_on
        sub     $8, %rsp
        call    jumps_at_its_end
        lea     8(%rsp), %rsp
        ret
        end     passes_on

        function asks_in_the_end
        sub     $8, %rsp
        call    passes_on
        lea     8(%rsp), %rsp
        setc    %al
        ret
        end     asks_in_the_end

/* Somebody jumps to it: it returns for that function. */
        function is_jumped_to
        cmp     %rsi, %rdi
        probe   returns_for_another     # alive
        ret
        end     is_jumped_to

        function jumps_there
        mov     %rdi, %rax
        jmp     is_jumped_to
        end     jumps_there

        function asks_the_jumper
        sub     $8, %rsp
        call    jumps_there
        lea     8(%rsp), %rsp
        sbb     %eax, %eax
        ret
        end     asks_the_jumper

/* One function runs on into the next, which returns for both. */
        .balign 16
        .type   runs_on, @function
runs_on:
        .cfi_startproc
        mov     %rdi, %rax
        .cfi_endproc
        .size   runs_on, . - runs_on
        .type   is_run_into, @function
is_run_into:
        .cfi_startproc
        cmp     %rsi, %rdi
        probe   runs_into_it            # alive
        ret
        end     is_run_into

        function asks_the_first
        sub     $8, %rsp
        call    runs_on
        lea     8(%rsp), %rsp
        sbb     %eax, %eax
        ret
        end     asks_the_first

/* Nobody asks: all callers write them. */
        function returns_nothing
        cmp     %rsi, %rdi
        probe   nobody_asks             # dead
        mov     %rdi, %rax
        ret
        end     returns_nothing

        function calls_and_tests
        sub     $8, %rsp
        call    returns_nothing
        lea     8(%rsp), %rsp
        test    %eax, %eax
        setc    %al
        ret
        end     calls_and_tests

        function calls_and_returns
        sub     $8, %rsp
        call    returns_nothing
        add     $8, %rsp
        ret
        end     calls_and_returns

/* It is only called from other files. */
        .globl  is_exported
        function is_exported
        cmp     %rsi, %rdi
        probe   other_files_call        # dead
        mov     %rdi, %rax
        ret
        end     is_exported

/* A jump by a table, one of whose places reads. */
        function by_table_reads
        cmp     $2, %rdi
        ja      3f
        lea     9f(%rip), %rdx
        movslq  (%rdx,%rdi,4), %rax
        lea     (%rax,%rdx), %rax
        probe   table_with_a_reader     # alive
        jmp     *%rax
1:      test    %eax, %eax
        ret
2:      setb    %al
        ret
3:      xor     %eax, %eax
        ret
        .pushsection .rodata
        .balign 4
9:      .4byte  1b - 9b, 2b - 9b, 3b - 9b
        .popsection
        end     by_table_reads

        function by_table
        cmp     $2, %rdi
        ja      3f
        lea     9f(%rip), %rdx
        movslq  (%rdx,%rdi,4), %rax
        add     %rdx, %rax
        probe   table_of_writers        # dead
        jmp     *%rax
1:      test    %eax, %eax
        ret
2:      cmp     %rsi, %rdi
        ret
3:      xor     %eax, %eax
        add     %esi, %eax
        ret
        .pushsection .rodata
        .balign 4
9:      .4byte  1b - 9b, 2b - 9b, 3b - 9b
        .popsection
        end     by_table

/* Where a jump goes that nobody understands. */
        function anywhere
        cmp     %rsi, %rdi
        imul    $3, %rdi, %rax
        cmp     %rsi, %rdi
        probe   jump_to_a_product       # alive
        jmp     *%rax
        end     anywhere

/* Pushed and returned to: a jump. */
        function pushes
        lea     1f(%rip), %rax
        cmp     %rsi, %rdi
        push    %rax
        probe   return_to_a_label       # alive
        ret
1:      setb    %al
        ret
        end     pushes

        .section .note.GNU-stack, "", @progbits
