/* SPDX-License-Identifier: GPL-2.0 */

#ifndef _BINDER_RS_HELPERS_H
#define _BINDER_RS_HELPERS_H

#include <linux/types.h>

struct fs_context;
struct list_head;
struct shrinker;

const char *binder_rs_devices(void);
int binder_rs_init_pseudo(struct fs_context *fc, unsigned long magic);
void binder_rs_set_current_state(unsigned int state);
void binder_rs_list_del_init(struct list_head *entry);
bool binder_rs_ratelimit(void);
unsigned long binder_rs_rlimit(unsigned int which);
struct shrinker *binder_rs_new_shrinker(void);

#endif /* _BINDER_RS_HELPERS_H */
