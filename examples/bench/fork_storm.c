/* Has processes come and go that concern nobody: the work for those who listen to the kernel's
 * proc connector. In C, because fork(2) is unsafe in Rust and a shell's fork is mostly the shell.
 *
 * Usage: fork_storm COUNT; prints how long it took, in nanoseconds. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec begin, end;
	long count = argc == 2 ? atol(argv[1]) : 0;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (long i = 0; i < count; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		if (child < 0 || waitpid(child, NULL, 0) != child) {
			perror("fork_storm");
			return 1;
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%lld\n", (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec);
	return 0;
}
