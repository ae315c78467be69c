/* libseccomp's word on a profile, and the kernel's on a program.
 *
 *   oracle numbers < names            "name x86_64 i386 x32" a line, negative where there is no such call
 *   oracle filter < rules             libseccomp's own program for the rules, as the kernel takes it
 *   oracle load program < names       "name result errno" of some calls under that program
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int die(const char *what, int error)
{
	fprintf(stderr, "%s: %s\n", what, strerror(error));
	return 1;
}

static int numbers(void)
{
	char name[128];
	while (scanf("%127s", name) == 1)
		printf("%s %d %d %d\n", name,
		       seccomp_syscall_resolve_name_arch(SCMP_ARCH_X86_64, name),
		       seccomp_syscall_resolve_name_arch(SCMP_ARCH_X86, name),
		       seccomp_syscall_resolve_name_arch(SCMP_ARCH_X32, name));
	return 0;
}

static enum scmp_compare operator(const char *name)
{
	static const struct { const char *name; enum scmp_compare op; } ops[] = {
		{ "NE", SCMP_CMP_NE }, { "LT", SCMP_CMP_LT }, { "LE", SCMP_CMP_LE }, { "EQ", SCMP_CMP_EQ },
		{ "GE", SCMP_CMP_GE }, { "GT", SCMP_CMP_GT }, { "MASKED", SCMP_CMP_MASKED_EQ },
	};
	for (size_t i = 0; i < sizeof(ops) / sizeof(*ops); i++)
		if (!strcmp(ops[i].name, name))
			return ops[i].op;
	abort();
}

/* First line: "default ACTION". Then "arch x86", "arch x32", or "rule ACTION NAME COUNT {INDEX OP VALUE VALUE2}". */
static int filter(void)
{
	char word[32], name[128];
	unsigned int action;
	int r;
	if (scanf("%31s %x", word, &action) != 2)
		return die("no default", EINVAL);
	scmp_filter_ctx context = seccomp_init(action);
	while (scanf("%31s", word) == 1) {
		if (!strcmp(word, "arch")) {
			if (scanf("%127s", name) != 1)
				return die("arch", EINVAL);
			r = seccomp_arch_add(context, !strcmp(name, "x86") ? SCMP_ARCH_X86 : SCMP_ARCH_X32);
			if (r < 0)
				return die("arch_add", -r);
			continue;
		}
		unsigned int count;
		struct scmp_arg_cmp args[6];
		if (scanf("%x %127s %u", &action, name, &count) != 3 || count > 6)
			return die("rule", EINVAL);
		for (unsigned int i = 0; i < count; i++) {
			unsigned int index;
			unsigned long long value, value2;
			if (scanf("%u %31s %llx %llx", &index, word, &value, &value2) != 4)
				return die("condition", EINVAL);
			args[i] = (struct scmp_arg_cmp){ index, operator(word), value, value2 };
		}
		int number = seccomp_syscall_resolve_name(name);
		if (number == __NR_SCMP_ERROR)
			continue;
		r = seccomp_rule_add_array(context, action, number, count, args);
		if (r < 0 && r != -EEXIST)
			return die(name, -r);
	}
	r = seccomp_export_bpf(context, 1);
	return r < 0 ? die("export", -r) : 0;
}

static long call(const char *name)
{
	if (!strcmp(name, "getpid"))
		return syscall(SYS_getpid) > 0 ? 0 : -1;
	if (!strcmp(name, "unshare"))
		return syscall(SYS_unshare, CLONE_NEWUTS);
	if (!strcmp(name, "clone_newuts"))
		return syscall(SYS_clone, CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
	if (!strcmp(name, "clone3"))
		return syscall(SYS_clone3, 0, 0);
	if (!strcmp(name, "socket_unix"))
		return socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? -1 : 0;
	if (!strcmp(name, "socket_vsock"))
		return socket(AF_VSOCK, SOCK_STREAM, 0) < 0 ? -1 : 0;
	if (!strcmp(name, "personality_ask"))
		return personality(0xffffffff) < 0 ? -1 : 0;
	if (!strcmp(name, "personality_no_randomize"))
		return personality(ADDR_NO_RANDOMIZE) < 0 ? -1 : 0;
	if (!strcmp(name, "keyctl"))
		return syscall(SYS_keyctl, 0, 0, 0, 0, 0);
	if (!strcmp(name, "mount"))
		return syscall(SYS_mount, 0, 0, 0, 0, 0);
	if (!strcmp(name, "not_yet_there"))
		return syscall(9999);
	if (!strcmp(name, "fork")) {
		pid_t child = fork();
		if (child == 0)
			_exit(0);
		return child > 0 && waitpid(child, NULL, 0) == child ? 0 : -1;
	}
	abort();
}

static int load(const char *path)
{
	static struct sock_filter program[4096];
	char name[128];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, program, sizeof(program));
	if (size <= 0)
		return die(path, errno);
	struct sock_fprog fprog = { size / sizeof(*program), program };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &fprog))
		return die("seccomp", errno);
	while (scanf("%127s", name) == 1) {
		errno = 0;
		long result = call(name);
		printf("%s %ld %d\n", name, result, result < 0 ? errno : 0);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "numbers"))
		return numbers();
	if (argc == 2 && !strcmp(argv[1], "filter"))
		return filter();
	if (argc == 3 && !strcmp(argv[1], "load"))
		return load(argv[2]);
	return die("oracle numbers|filter|load", EINVAL);
}
