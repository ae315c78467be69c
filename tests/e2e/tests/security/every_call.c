/* Makes every system call once, each in a process of its own, with -1 for all arguments: few do anything then but complain.
 * A line for each: its number, and "errno N", "done", "exit N" or "signal N". */
#include <errno.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DONE = 200, PAUSE = 34, MSGGET = 68, SYNC = 162, X32 = 0x40000000 };

/* Without a stack: it may be another's after vfork, and without libc, which may know better. Ends the process. */
static void call(long number)
{
	register long minus asm("r10") = -1;
	register long fifth asm("r8") = -1;
	register long sixth asm("r9") = -1;
	asm volatile("syscall\n\t"
		     "cmp $-4095, %%rax\n\t"
		     "mov $200, %%edi\n\t"
		     "jb 1f\n\t"
		     "neg %%eax\n\t"
		     "mov %%eax, %%edi\n\t"
		     "1: mov $231, %%eax\n\t"
		     "syscall\n\t"
		     "hlt"
		     :
		     : "a"(number), "D"(-1L), "S"(-1L), "d"(-1L), "r"(minus), "r"(fifth), "r"(sixth)
		     : "rcx", "r11", "memory");
}

static void each(long number)
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		/* What waits would wait for ever. */
		alarm(number == PAUSE ? 1 : 120);
		call(number);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		printf("%ld not made\n", number);
	else if (WIFSIGNALED(status))
		printf("%ld signal %d\n", number, WTERMSIG(status));
	/* The queue of the first time. */
	else if (WEXITSTATUS(status) == DONE || (number == MSGGET && WEXITSTATUS(status) == EEXIST))
		printf("%ld done\n", number);
	else
		printf("%ld errno %d\n", number, WEXITSTATUS(status));
	fflush(stdout);
}

int main(void)
{
	for (long number = 0; number < 512; number++)
		/* It would wait for everybody's disks. */
		if (number != SYNC)
			each(number);
	for (long number = 512; number < 548; number++)
		each(number | X32);
	puts("end");
	return 0;
}
