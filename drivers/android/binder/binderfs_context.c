// SPDX-License-Identifier: GPL-2.0

/*
 * The mount API's side of binderfs: Rust does not see what is inside a struct fs_context. What the options mean is up
 * to binderfs.rs.
 */

#include <linux/build_bug.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/fsnotify.h>
#include <linux/module.h>
#include <uapi/linux/android/binderfs.h>
#include <uapi/linux/magic.h>

#include "helpers.h"

/* What the Rust files have of their own, because the kernel's bindings have it not, or not with every configuration. */
static_assert(sizeof(struct binderfs_device) == 264);
static_assert(offsetof(struct binderfs_device, major) == 256 && offsetof(struct binderfs_device, minor) == 260);
static_assert(BINDER_CTL_ADD == 0xc1086201);
static_assert(BINDERFS_SUPER_MAGIC == BINDER_RS_FS_MAGIC);

static const struct constant_table stats_modes[] = {
	{ "global", BINDER_RS_STATS_GLOBAL },
	{}
};

static const struct fs_parameter_spec parameters[] = {
	fsparam_u32("max", BINDER_RS_OPTION_MAX),
	fsparam_enum("stats", BINDER_RS_OPTION_STATS, stats_modes),
	{}
};

static const struct fs_context_operations operations = {
	.free = binder_rs_fs_free,
	.parse_param = binder_rs_fs_parse,
	.get_tree = binder_rs_fs_get_tree,
	.reconfigure = binder_rs_fs_reconfigure,
};

#ifdef CONFIG_MODULES
/* try_module_get() refuses a module that is going. */
static struct module not_to_be_held = { .state = MODULE_STATE_GOING };

struct module *binder_rs_owner_not_to_be_held(void)
{
	return &not_to_be_held;
}
#else
struct module *binder_rs_owner_not_to_be_held(void)
{
	return NULL;
}
#endif

void binder_rs_context_init(struct fs_context *fc, void *options)
{
	fc->fs_private = options;
	fc->ops = &operations;
}

void *binder_rs_context_options(struct fs_context *fc)
{
	return fc->fs_private;
}

struct super_block *binder_rs_context_super(struct fs_context *fc)
{
	return fc->root->d_sb;
}

int binder_rs_context_parse(struct fs_context *fc, struct fs_parameter *param, u32 *value)
{
	struct fs_parse_result result = {};
	int option = fs_parse(fc, parameters, param, &result);

	*value = result.uint_32;
	return option;
}

void binder_rs_context_error(struct fs_context *fc, const char *message)
{
	errorfc(fc, "%s", message);
}

void binder_rs_notify_created(struct inode *dir, struct dentry *dentry)
{
	fsnotify_create(dir, dentry);
}
