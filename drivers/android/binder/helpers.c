// SPDX-License-Identifier: GPL-2.0

/*
 * What Rust cannot call: macros, and inline functions for which the kernel's own crates have no helper.
 *
 * Every function here is one statement of C; logic belongs in the Rust files. Each is declared to Rust in the file
 * that uses it.
 */

#include <linux/moduleparam.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/shrinker.h>

#include "helpers.h"

/* What shrinker.rs has of its own, because it is hidden in a macro. */
static_assert(SHRINKER_NUMA_AWARE == 4);

/* The module! macro knows integer parameters only. */
char *binder_rs_devices = "binder,hwbinder,vndbinder";
module_param_named(devices, binder_rs_devices, charp, 0444);
MODULE_PARM_DESC(devices, "names of the device nodes, separated by commas; each is a context of its own");

void binder_rs_set_current_state(unsigned int state)
{
	set_current_state(state);
}

bool binder_rs_ratelimit(void)
{
	static DEFINE_RATELIMIT_STATE(state, DEFAULT_RATELIMIT_INTERVAL, 4 * DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&state);
}
