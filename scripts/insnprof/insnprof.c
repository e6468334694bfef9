// SPDX-License-Identifier: GPL-2.0
/*
 * A plugin of QEMU that counts the instructions a guest executes between two
 * marks: every translated block has a counter, which runs from the first
 * execution of the block at one address to that of the block at the other.
 *
 *     -plugin insnprof.so,start=ADDRESS,stop=ADDRESS,out=FILE
 *
 * FILE gets a line "ADDRESS INSTRUCTIONS EXECUTIONS" for each block. One CPU.
 *
 * What is used of QEMU's interface (version 2) is declared here: Debian has no
 * package with its header.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_info;

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
		void (*callback)(uint64_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block,
		void (*callback)(unsigned int cpu, void *data), int flags, void *data);
void qemu_plugin_register_atexit_cb(uint64_t id,
		void (*callback)(uint64_t id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);

int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv);
extern int qemu_plugin_version;
int qemu_plugin_version = 2;

struct block {
	uint64_t address;
	uint64_t instructions;
	uint64_t executions;
	struct block *next;
};

/* A block that is translated again gets a new counter; the report adds up. */
static struct block *blocks;
static uint64_t start, stop;
static const char *path = "insnprof.out";
static bool counting;

static void executed(unsigned int cpu, void *data)
{
	struct block *block = data;

	(void)cpu;
	if (block->address == start)
		counting = true;
	else if (block->address == stop)
		counting = false;
	block->executions += counting;
}

static void translated(uint64_t id, struct qemu_plugin_tb *translation)
{
	struct block *block = calloc(1, sizeof(*block));

	(void)id;
	if (!block)
		abort();
	block->address = qemu_plugin_tb_vaddr(translation);
	block->instructions = qemu_plugin_tb_n_insns(translation);
	block->next = blocks;
	blocks = block;
	qemu_plugin_register_vcpu_tb_exec_cb(translation, executed, 0, block);
}

static void ended(uint64_t id, void *data)
{
	FILE *out = fopen(path, "w");

	(void)id;
	(void)data;
	if (!out) {
		perror(path);
		return;
	}
	for (struct block *block = blocks; block; block = block->next)
		if (block->executions)
			fprintf(out, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n",
				block->address, block->instructions, block->executions);
	fclose(out);
}

int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "start=", 6))
			start = strtoull(argv[i] + 6, NULL, 0);
		else if (!strncmp(argv[i], "stop=", 5))
			stop = strtoull(argv[i] + 5, NULL, 0);
		else if (!strncmp(argv[i], "out=", 4))
			path = argv[i] + 4;
		else
			return -1;
	}
	/* The arguments do not outlive this function. */
	path = strdup(path);
	if (!start || !stop || !path)
		return -1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
