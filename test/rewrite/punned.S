/*
 * long walk(long value, long offset): comes into its own code `offset` bytes behind the probe, by an address that nobody
 * but its caller knows. So any byte of it may be entered, and other bytes behind the probe would break it.
 *
 * FIRST is the instruction behind the probe: its four bytes are the distance of a jump that begins at the probe.
 */
#ifndef FIRST
/* 0x01408d48, 20 MiB */
# define FIRST lea 1(%rax), %rax
#endif

	.macro	probe name
	.pushsection .note.stapsdt, "", "note"
	.balign	4
	.long	2f-1f, 4f-3f, 3
1:	.asciz	"stapsdt"
2:	.balign	4
3:	.quad	.L\name, 0, 0
	.asciz	"punned"
	.asciz	"\name"
	.asciz	"8@%rax"
4:	.balign	4
	.popsection
	.endm

	.text
	.globl	walk
	.type	walk, @function
walk:
	.cfi_startproc
	lea	.Lwalk(%rip), %rcx
	add	%rsi, %rcx
	mov	%rdi, %rax
#ifdef DATA_POINTER
	mov	%rsp, %rdx
	mov	%rdi, %rsp
	mov	%rdx, %rsp
#endif
#ifdef READS_CODE
	movzbl	.Lwalk(%rip), %edx
#endif
	jmp	*%rcx
.Lwalk:	nop
#ifdef SECOND_PROBE
.Lsecond:
	nop
	lea	1(%rax), %rax
	probe second
#elif defined(FUNCTION_BEHIND)
	ret
	.cfi_endproc
	.size	walk, .-walk
	.type	behind, @function
behind:	.cfi_startproc
	lea	(%rax,%rax), %rax
#else
	FIRST
#endif
	lea	(%rax,%rax), %rax
	ret
	.cfi_endproc
#ifndef FUNCTION_BEHIND
	.size	walk, .-walk
#endif
	probe walk
#ifdef SEVERAL
/* Probes that lead to pages of their own, and two that lead to one page. */
	.macro	another name, distance, behind
	.type	\name, @function
\name:	.cfi_startproc
	add	%rsi, %rcx
	jmp	*%rcx
.L\name:	nop
	lea	\distance(%rax), %rax
	.fill	\behind, 1, 0x90
	ret
	.cfi_endproc
	.size	\name, .-\name
	probe	\name
	.endm
	another	three, 3, 0
	another	four, 4, 0
	another	five, 5, 0
	another	also_five, 5, 0
	another	six, 6, 0
	another	seven, 7, 0
#endif
#ifdef PADDING
	.type	other, @function
other:	.cfi_startproc
	ret
	.cfi_endproc
	.size	other, .-other
/*
 * What a short jump by the first byte behind the probe, 0x48, leads to: padding behind a function of which all is known. And
 * room for the careless rewriter of the tests.
 */
	.fill	256, 1, 0xcc
#endif
	.section .note.GNU-stack, "", @progbits
