/* SPDX-License-Identifier: GPL-2.0 */

#ifndef _BINDER_RS_HELPERS_H
#define _BINDER_RS_HELPERS_H

#include <linux/fs_context.h>

extern char *binder_rs_devices;
#ifdef MODULE
extern char *binder_rs_lsm_hooks;
#endif
void binder_rs_set_current_state(unsigned int state);
bool binder_rs_ratelimit(void);
void binder_rs_cond_resched(void);
bool binder_rs_fatal_signal_pending(void);
struct user_namespace *binder_rs_get_user_ns(struct user_namespace *ns);
void binder_rs_put_user_ns(struct user_namespace *ns);

/* for sys/memcg.rs and lru.rs */
struct mem_cgroup *binder_rs_mem_cgroup_of_current(void);
void binder_rs_mem_cgroup_put(struct mem_cgroup *memcg);
struct mem_cgroup *binder_rs_set_active_mem_cgroup(struct mem_cgroup *memcg);
struct kmem_cache *binder_rs_create_cache(const char *name, unsigned int size);
void *binder_rs_alloc_entries(struct kmem_cache *cache, struct list_lru *lru, gfp_t flags);

/* binderfs_context.c, for binderfs.rs */
#define BINDER_RS_FS_MAGIC 0x6c6f6f70
#define BINDER_RS_OPTION_MAX 1
#define BINDER_RS_OPTION_STATS 2
#define BINDER_RS_STATS_GLOBAL 1

struct module *binder_rs_owner_not_to_be_held(void);
void binder_rs_context_init(struct fs_context *fc, void *options);
void *binder_rs_context_options(struct fs_context *fc);
struct super_block *binder_rs_context_super(struct fs_context *fc);
int binder_rs_context_parse(struct fs_context *fc, struct fs_parameter *param, u32 *value);
void binder_rs_context_error(struct fs_context *fc, const char *message);
void binder_rs_notify_created(struct inode *dir, struct dentry *dentry);

/* netlink.c, for sys/netlink.rs */
extern struct genl_family binder_rs_family;
bool binder_rs_reports_are_wanted(void);
void binder_rs_report(const void *attributes, size_t size);

/* binderfs.rs, for binderfs_context.c */
void binder_rs_fs_free(struct fs_context *fc);
int binder_rs_fs_parse(struct fs_context *fc, struct fs_parameter *param);
int binder_rs_fs_get_tree(struct fs_context *fc);
int binder_rs_fs_reconfigure(struct fs_context *fc);

#endif /* _BINDER_RS_HELPERS_H */
