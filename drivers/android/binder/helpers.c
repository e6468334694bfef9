// SPDX-License-Identifier: GPL-2.0

/*
 * What Rust cannot call: macros, and inline functions for which the kernel's own crates have no helper.
 *
 * Every function here is one statement of C; logic belongs in the Rust files. Each is declared to Rust in the file
 * that uses it.
 */

#include <linux/gfp.h>
#include <linux/list_lru.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>

#include "helpers.h"

/* What shrinker.rs has of its own, because it is hidden in a macro. */
static_assert(SHRINKER_NUMA_AWARE == 4);
static_assert(SHRINKER_MEMCG_AWARE == 8);

/* What sys/memcg.rs makes of its number. */
static_assert(BIT(___GFP_RETRY_MAYFAIL_BIT) == __GFP_RETRY_MAYFAIL);

/* The module! macro knows no version. */
MODULE_VERSION(BINDER_RS_VERSION);

/* The module! macro knows integer parameters only. */
char *binder_rs_devices = "binder,hwbinder,vndbinder";
module_param_named(devices, binder_rs_devices, charp, 0444);
MODULE_PARM_DESC(devices, "names of the device nodes, separated by commas; each is a context of its own");

#ifdef MODULE
char *binder_rs_lsm_hooks = "required";
module_param_named(lsm_hooks, binder_rs_lsm_hooks, charp, 0444);
MODULE_PARM_DESC(lsm_hooks, "'required' (default): not loaded where SELinux is active and the kernel does not export its Binder hooks; 'optional': loaded all the same, SELinux is not asked then");
#endif

void binder_rs_set_current_state(unsigned int state)
{
	set_current_state(state);
}

void binder_rs_cond_resched(void)
{
	cond_resched();
}

bool binder_rs_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

bool binder_rs_ratelimit(void)
{
	static DEFINE_RATELIMIT_STATE(state, DEFAULT_RATELIMIT_INTERVAL, 4 * DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&state);
}

struct mem_cgroup *binder_rs_mem_cgroup_of_current(void)
{
	return get_mem_cgroup_from_mm(current->mm);
}

void binder_rs_mem_cgroup_put(struct mem_cgroup *memcg)
{
	mem_cgroup_put(memcg);
}

struct mem_cgroup *binder_rs_set_active_mem_cgroup(struct mem_cgroup *memcg)
{
	return set_active_memcg(memcg);
}

struct kmem_cache *binder_rs_create_cache(const char *name, unsigned int size)
{
	return kmem_cache_create(name, size, 0, SLAB_HWCACHE_ALIGN | SLAB_ACCOUNT, NULL);
}

void *binder_rs_alloc_entries(struct kmem_cache *cache, struct list_lru *lru, gfp_t flags)
{
	return kmem_cache_alloc_lru(cache, lru, flags);
}

struct user_namespace *binder_rs_get_user_ns(struct user_namespace *ns)
{
	return get_user_ns(ns);
}

void binder_rs_put_user_ns(struct user_namespace *ns)
{
	put_user_ns(ns);
}
