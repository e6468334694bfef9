// SPDX-License-Identifier: GPL-2.0

/* The generic netlink family, which only C can describe. What it is for, and what is in a report, is up to sys/netlink.rs. */

#include <net/genetlink.h>
#include <uapi/linux/android/binder_netlink.h>

#include "helpers.h"

static_assert(BINDER_A_REPORT_ERROR == 1 && BINDER_A_REPORT_DATA_SIZE == 10);

static const struct genl_multicast_group groups[] = { { .name = BINDER_MCGRP_REPORT } };

struct genl_family binder_rs_family = {
	.name = BINDER_FAMILY_NAME,
	.version = BINDER_FAMILY_VERSION,
	.module = THIS_MODULE,
	.netnsok = true,
	.mcgrps = groups,
	.n_mcgrps = ARRAY_SIZE(groups),
};

bool binder_rs_reports_are_wanted(void)
{
	return genl_has_listeners(&binder_rs_family, &init_net, 0) > 0;
}

void binder_rs_report(const void *attributes, size_t size)
{
	struct sk_buff *skb = genlmsg_new(size, GFP_KERNEL);

	if (!skb)
		return;
	genlmsg_put(skb, 0, 0, &binder_rs_family, 0, BINDER_CMD_REPORT);
	skb_put_data(skb, attributes, size);
	nlmsg_end(skb, nlmsg_hdr(skb));
	genlmsg_multicast(&binder_rs_family, skb, 0, 0, GFP_KERNEL);
}
